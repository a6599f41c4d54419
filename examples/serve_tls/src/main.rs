//! `serve` with TLS by rustls, HTTP/1 and HTTP/2: each client chooses.
//!
//! `cargo run -p example-serve-tls`, then `curl -k https://localhost:3000` or
//! `curl -k --http1.1 https://localhost:3000/slow`, and Ctrl-C here: the request is answered first.
//!
//! The program makes a certificate at its start, which no client trusts (`-k`). With one of your
//! own: `cargo run -p example-serve-tls -- chain.pem key.pem`.

use axum::{Extension, Router, http::Version, routing::get};
use std::{env, error::Error, path::Path, sync::Arc, time::Duration};
use tokio::{net::TcpListener, time::sleep};
use tokio_rustls::rustls::{
    ProtocolVersion, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tower_graceful::{server::Serve, signal};

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // First in `main`: before this call, SIGTERM ends the process.
    let stop = signal::terminate();
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let (chain, key) = match &arguments[..] {
        [] => self_signed()?,
        [chain, key] => from_pem(chain.as_ref(), key.as_ref())?,
        _ => return Err("give a certificate chain and its key, or nothing".into()),
    };
    // The configuration has no ALPN, so `serve` offers `h2` and `http/1.1`.
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;

    let app = Router::new()
        .route("/", get(hello))
        .route("/slow", get(slow));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("https://localhost:3000, Ctrl-C to stop");

    let server = Serve::new(app)
        .listen_rustls(listener, Arc::new(config))
        .shutdown_on(stop)
        .exclusive()
        // Hands the handshake's result to the handlers. The client's certificates are there, too.
        .on_connect(|connection, extensions| {
            let tls = connection.tls();
            if let Some(version) = tls.and_then(|tls| tls.protocol_version()) {
                extensions.insert(version);
            }
        });
    println!("{}", server.await?);
    Ok(())
}

async fn hello(http: Version, Extension(tls): Extension<ProtocolVersion>) -> String {
    format!("{http:?} over {tls:?}\n")
}

async fn slow() -> &'static str {
    sleep(Duration::from_secs(5)).await;
    "that took a while\n"
}

fn from_pem(chain: &Path, key: &Path) -> Result<Identity, Box<dyn Error>> {
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<_, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_file(key)?))
}

fn self_signed() -> Result<Identity, Box<dyn Error>> {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    Ok((vec![cert.into()], signing_key.into()))
}
