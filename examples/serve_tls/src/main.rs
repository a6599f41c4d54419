//! TLS by rustls, with HTTP/1 and HTTP/2 as the client likes.
//!
//! `cargo run -p example-serve-tls`, then `curl -k https://localhost:3000` or, with `--http1.1`,
//! `curl -k --http1.1 https://localhost:3000/slow`, and Ctrl-C here: it is answered first.
//!
//! The certificate is made at the start, and nobody trusts it (`-k`). With one of your own:
//! `cargo run -p example-serve-tls -- chain.pem key.pem`.

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
    // First: before it, SIGTERM ends the process.
    let stop = signal::terminate();
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let (chain, key) = match &arguments[..] {
        [] => self_signed()?,
        [chain, key] => from_pem(chain.as_ref(), key.as_ref())?,
        _ => return Err("give a certificate chain and its key, or nothing".into()),
    };
    // Without an ALPN of its own, `h2` and `http/1.1` are offered.
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
        // What the handshake has shown: the certificates of the client would be here, too.
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
