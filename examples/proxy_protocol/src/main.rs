//! A server behind a balancer that speaks the PROXY protocol (HAProxy's `send-proxy` or
//! `send-proxy-v2`, a network load balancer of AWS, nginx's `proxy_protocol on`).
//!
//! `cargo run -p example-proxy-protocol`, then
//! `curl --haproxy-protocol localhost:3000` or, with an invented client,
//! `printf 'PROXY TCP4 192.0.2.1 198.51.100.1 5000 80\r\nGET / HTTP/1.0\r\n\r\n' | nc localhost 3000`.

use axum::{Router, extract::ConnectInfo, routing::get};
use ppp::{HeaderResult, v1, v2};
use std::{error::Error, io, net::SocketAddr};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpListener, TcpStream},
};
use tower_graceful::{
    server::{Handshaken, Peer, Serve},
    signal,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // First in `main`: before this call, SIGTERM ends the process.
    let stop = signal::terminate();
    let tcp = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://localhost:3000, Ctrl-C to stop");
    let server = server(tcp).exclusive().shutdown_on(stop);
    println!("{}", server.await?);
    Ok(())
}

fn server(tcp: TcpListener) -> Serve<Router> {
    let hello = async |ConnectInfo(peer): ConnectInfo<SocketAddr>| format!("hello, {peer}\n");
    Serve::new(Router::new().route("/", get(hello))).listen_with(tcp, of_the_balancer)
}

/// Reads the header and names the client as the peer. The server limits the time of a handshake.
async fn of_the_balancer(mut io: TcpStream, peer: Peer) -> io::Result<Handshaken<TcpStream>> {
    let client = client(&read_header(&mut io).await?)?;
    let peer = client.map_or(peer, Peer::from);
    Ok(Handshaken::new(io).peer(peer))
}

/// Reads a header, and no byte of the request behind it.
async fn read_header(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
    const LONGEST_V1: usize = 107;

    let mut header = vec![0; SIGNATURE.len()];
    io.read_exact(&mut header).await?;
    if header == SIGNATURE {
        // Version and command, family and protocol, and the length of the rest.
        header.resize(16, 0);
        io.read_exact(&mut header[12..]).await?;
        let rest = u16::from_be_bytes([header[14], header[15]]);
        header.resize(16 + usize::from(rest), 0);
        io.read_exact(&mut header[16..]).await?;
    } else if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\r\n") && header.len() < LONGEST_V1 {
            header.push(io.read_u8().await?);
        }
    }
    Ok(header)
}

/// Returns the client that a header names. It names none if the balancer has connected by itself,
/// for a health check.
fn client(header: &[u8]) -> io::Result<Option<SocketAddr>> {
    let invalid = |error: &dyn std::fmt::Display| {
        let text = format!("no header of the PROXY protocol: {error}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(it) => Some((it.source_address, it.source_port).into()),
            v1::Addresses::Tcp6(it) => Some((it.source_address, it.source_port).into()),
            v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) => Ok(match header.addresses {
            v2::Addresses::IPv4(it) => Some((it.source_address, it.source_port).into()),
            v2::Addresses::IPv6(it) => Some((it.source_address, it.source_port).into()),
            _ => None,
        }),
        HeaderResult::V1(Err(error)) => Err(invalid(&error)),
        HeaderResult::V2(Err(error)) => Err(invalid(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::AsyncWriteExt,
        time::{Duration, timeout},
    };
    use tower_graceful::{Drain, report::BlockerKind};

    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const V1: &str = "PROXY TCP4 192.0.2.1 198.51.100.1 5000 80\r\n";
    const CLIENT: &str = "192.0.2.1:5000";

    fn v2() -> Vec<u8> {
        let addresses = v2::IPv4::new([192, 0, 2, 1], [198, 51, 100, 1], 5000, 80);
        let command = v2::Version::Two | v2::Command::Proxy;
        let header = v2::Builder::with_addresses(command, v2::Protocol::Stream, addresses);
        header.build().expect("a header")
    }

    async fn started() -> (Drain, SocketAddr) {
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = tcp.local_addr().expect("bound");
        let drain = Drain::new();
        let server = server(tcp).with_drain(drain.clone());
        tokio::spawn(async move { server.await });
        (drain, address)
    }

    /// Sends the parts one by one and reads until the answer has come, or the end.
    async fn exchange(client: &mut TcpStream, parts: &[&[u8]]) -> String {
        client.set_nodelay(true).expect("open");
        for part in parts {
            client.write_all(part).await.expect("open");
        }
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n") || answer.ends_with(b"\r\n") {
            let read = timeout(Duration::from_secs(30), client.read_buf(&mut answer));
            if !matches!(read.await.expect("in time"), Ok(1..)) {
                break;
            }
        }
        String::from_utf8(answer).expect("text")
    }

    #[tokio::test]
    async fn the_client_of_the_balancer_is_the_peer() {
        let (drain, address) = started().await;
        let v2 = v2();
        let cases: [&[&[u8]]; 4] = [
            &[V1.as_bytes(), GET.as_bytes()],
            &[&V1.as_bytes()[..20], &V1.as_bytes()[20..], GET.as_bytes()],
            &[&v2, GET.as_bytes()],
            &[&[&v2, GET.as_bytes()].concat()],
        ];
        for parts in cases {
            let mut client = TcpStream::connect(address).await.expect("it listens");
            let answer = exchange(&mut client, parts).await;
            assert!(answer.ends_with(&format!("hello, {CLIENT}\n")), "{answer}");
            let report = drain.report();
            let named = report.blockers.iter().any(|blocker| {
                matches!(blocker.kind, BlockerKind::Connection(_))
                    && blocker.peer.is_some_and(|peer| peer.to_string() == CLIENT)
            });
            assert!(named, "{report}");
        }
    }

    #[tokio::test]
    async fn a_health_check_of_the_balancer_keeps_its_address() {
        let (_drain, address) = started().await;
        let mut client = TcpStream::connect(address).await.expect("it listens");
        let local = client.local_addr().expect("connected");
        let answer = exchange(&mut client, &[b"PROXY UNKNOWN\r\n", GET.as_bytes()]).await;
        assert!(answer.ends_with(&format!("hello, {local}\n")), "{answer}");
    }

    #[tokio::test]
    async fn a_client_without_a_header_gets_no_answer() {
        let (drain, address) = started().await;
        for sent in [GET, "PROXY TCP9 what\r\n, and more\r\n"] {
            let mut client = TcpStream::connect(address).await.expect("it listens");
            assert_eq!(exchange(&mut client, &[sent.as_bytes()]).await, "");
        }
        // A part of a header holds no drain.
        let mut silent = TcpStream::connect(address).await.expect("it listens");
        silent.write_all(&V1.as_bytes()[..9]).await.expect("open");
        let drained = timeout(
            Duration::from_secs(30),
            drain.shutdown(Duration::from_secs(20)),
        );
        drained.await.expect("in time").expect("nothing is left");
        assert_eq!(exchange(&mut silent, &[]).await, "");
    }
}
