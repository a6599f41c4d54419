//! TLS, by rustls.

use super::listener::{Established, Handshake, Peer, Protocol};
use crate::net::has_news;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{Accept, TlsAcceptor, rustls::ServerConfig, server::TlsStream};

#[derive(Clone)]
pub(super) struct Tls(TlsAcceptor);

impl Tls {
    /// Offers what is served, or as much of it as the configuration offers.
    pub(super) fn new(mut config: Arc<ServerConfig>, protocol: Option<Protocol>) -> Self {
        let served = |name: &Vec<u8>| match protocol {
            Some(Protocol::Http1) => name != b"h2",
            Some(Protocol::Http2) => name == b"h2",
            Some(Protocol::Either) | None => true,
        };
        let offer = &mut Arc::make_mut(&mut config).alpn_protocols;
        if offer.is_empty() {
            *offer = vec![b"h2".into(), b"http/1.1".into()];
        }
        offer.retain(served);
        Self(TlsAcceptor::from(config))
    }
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Handshake<T> for Tls {
    type Io = TlsStream<T>;
    type Shaking = Accept<T>;

    fn shake(&self, io: T) -> Self::Shaking {
        self.0.accept(io)
    }

    fn has_news(io: &Self::Io) -> bool {
        has_news(io.get_ref().0)
    }

    fn protocol(io: &Self::Io) -> Protocol {
        match io.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            // Without an agreement, too: whoever speaks HTTP/2 over TLS has to agree upon it (RFC
            // 9113, section 3.2).
            _ => Protocol::Http1,
        }
    }

    fn established<'a>(io: &'a Self::Io, peer: &'a Peer) -> Established<'a> {
        let (io, tls) = io.get_ref();
        Established {
            io,
            peer,
            tls: Some(tls),
        }
    }
}
