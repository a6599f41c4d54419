//! TLS by rustls on `axum::serve`, which stops without losing a request or a handshake.
//!
//! `cargo run -p example-axum-tls`, then `curl -k https://localhost:3000/slow`, and Ctrl-C here: the
//! request is answered first. (`serve` has TLS of its own: see `examples/serve_tls`.)

mod listener;

use axum::{Router, routing::get};
use listener::TlsListener;
use std::{error::Error, sync::Arc, time::Duration};
use tokio::time::sleep;
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tower_graceful::{Drain, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // First in `main`: before this call, SIGTERM ends the process.
    let stop = signal::terminate();
    let names = vec!["localhost".to_owned()];
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.into()], signing_key.into())?;
    config.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];

    let drain = Drain::new();
    let app = Router::new()
        .route("/", get("hello\n"))
        .route("/slow", get(slow))
        .layer(drain.layer());
    let tcp = drain.bind("127.0.0.1:3000").await?;
    let listener = TlsListener::new(tcp, TlsAcceptor::from(Arc::new(config)));
    println!("https://localhost:3000, Ctrl-C to stop");

    let server = axum::serve(listener, app).with_graceful_shutdown(drain.shutdown_signal());
    println!("{}", drain.run(server, stop).await?);
    Ok(())
}

async fn slow() -> &'static str {
    sleep(Duration::from_secs(5)).await;
    "that took a while\n"
}
