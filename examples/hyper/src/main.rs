//! A hand-written accept loop on hyper, HTTP/1 and HTTP/2, around a `ServiceBuilder` chain.
//!
//! `cargo run -p example-hyper`, then `curl localhost:3000` or
//! `curl --http2-prior-knowledge localhost:3000`, and Ctrl-C here.

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use std::{convert::Infallible, error::Error, pin::pin, time::Duration};
use tokio::{net::TcpListener, time::sleep};
use tower::{Service, ServiceBuilder, service_fn};
use tower_graceful::{Drain, net::DrainListener, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // First in `main`: before this call, SIGTERM ends the process.
    let stop = signal::terminate();
    let drain = Drain::new();
    let service = ServiceBuilder::new()
        // Outside of the layer, so that refusals are logged like other responses.
        .map_response(log)
        .layer(drain.layer())
        .service(service_fn(hello));

    let listener = drain.bind("127.0.0.1:3000").await?;
    println!("http://localhost:3000, Ctrl-C to stop");

    let server = serve(listener, service, drain.clone());
    let drained = drain.run(server, stop).await?;
    println!("{drained}");
    Ok(())
}

fn log<B>(response: Response<B>) -> Response<B> {
    println!("{}", response.status());
    response
}

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    sleep(Duration::from_secs(1)).await;
    Ok(Response::new(Full::new(Bytes::from("hello\n"))))
}

/// Accepts until the drain has closed the listener. The drain counts the connections, waits for
/// them, and aborts them at its deadline.
async fn serve<S, B>(mut listener: DrainListener<TcpListener>, service: S, drain: Drain)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S: Service<Request<Incoming>, Future: Send, Error: Into<Box<dyn Error + Send + Sync>>>,
    B: hyper::body::Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    while let Some((io, peer)) = listener.accept().await {
        let service = TowerToHyperService::new(service.clone());
        let shutdown = drain.shutdown_signal();
        tokio::spawn(async move {
            let connections = auto::Builder::new(TokioExecutor::new());
            let connection = connections.serve_connection_with_upgrades(TokioIo::new(io), service);
            let mut connection = pin!(connection);
            let result = tokio::select! {
                result = &mut connection => result,
                () = shutdown => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                eprintln!("{peer}: {error}");
            }
        });
    }
}
