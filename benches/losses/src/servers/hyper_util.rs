//! An accept loop by hand, with hyper-util's `GracefulShutdown`, as its example has it.

use super::{BODY, Serving, Stop, work};
use crate::client::Mode;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
};
use std::{convert::Infallible, net::TcpListener};

pub(super) fn serve(listener: TcpListener, _: Mode, mut stop: Stop) -> Serving {
    Box::pin(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let connections = auto::Builder::new(TokioExecutor::new());
        let graceful = GracefulShutdown::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let stream = TokioIo::new(accepted?.0);
                    let connection = connections.serve_connection_with_upgrades(stream, service_fn(answer));
                    tokio::spawn(graceful.watch(connection.into_owned()));
                }
                () = &mut stop => break,
            }
        }
        drop(listener);
        graceful.shutdown().await;
        Ok(())
    })
}

async fn answer(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    work().await;
    Ok(Response::new(Full::new(Bytes::from_static(
        BODY.as_bytes(),
    ))))
}
