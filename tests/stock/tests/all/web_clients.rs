//! WebSocket clients that are not ours: Chromium, Node's and Python's `websockets`.
//!
//! A test whose client is not installed is skipped with a message. If `WEB_CLIENTS` is set, it
//! fails.

use crate::{
    guarded,
    server::{Server, bind},
    websockets::{CLOSE, Under, in_a_frame},
};
use axum::{
    Router,
    extract::RawQuery,
    response::Html,
    routing::{any, get},
};
use std::{
    env,
    io::{self, Write},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    sync::mpsc,
};
use tower_graceful::{Drain, Phase, report::ConnectionState};

/// Returns whether the client is installed: whether this command succeeds.
async fn is_there(client: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(client);
    command.args(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let there = command.status().await.is_ok_and(|status| status.success());
    if !there {
        let required = env::var_os("WEB_CLIENTS").is_some();
        assert!(!required, "{client} {arguments:?} does not work");
        // Not `eprintln!`: the test harness keeps that to itself when a test passes.
        let mut stderr = io::stderr().lock();
        writeln!(stderr, "\nSKIPPED: {client} {arguments:?} does not work\n").ok();
    }
    there
}

/// The lines that a client prints: the first one when it has connected, the second one when it was
/// closed. `begun` is called once the drain has begun.
async fn lines(client: &mut Command, server: &Server, begun: impl AsyncFnOnce()) -> [String; 2] {
    client.stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = client.spawn().expect("it has just run");
    let stdout = child.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(stdout).lines();
    let mut line = async || {
        let line = guarded(lines.next_line()).await.expect("text");
        line.expect("a line")
    };
    begin_once_connected(&server.drain).await;
    begun().await;
    [line().await, line().await]
}

async fn begin_once_connected(drain: &Drain) {
    guarded(async {
        while drain.left().connections_in(ConnectionState::Upgraded) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    drain.begin();
    guarded(drain.reached(Phase::Draining)).await;
}

const NODE: &str = r#"
const socket = new WebSocket(process.argv[1]);
socket.onopen = () => console.log("open");
socket.onclose = close => console.log(close.code, close.reason, close.wasClean);
"#;

#[tokio::test]
async fn node_is_closed() {
    if !is_there("node", &["--experimental-websocket", "-e", "WebSocket"]).await {
        return;
    }
    let server = Under::Serve.start(Drain::new(), Duration::ZERO, Router::new());
    let url = format!("ws://{}/ws", server.address);
    let mut node = Command::new("node");
    node.args(["--experimental-websocket", "-e", NODE, &url]);
    let [open, close] = lines(&mut node, &server, async || {}).await;
    let (code, reason) = CLOSE;
    assert_eq!(open, "open");
    assert_eq!(close, format!("{code} {reason} true"));
    let drained = server.drained().await;
    assert!(drained.elapsed < Duration::from_secs(3), "{drained}");
}

const PYTHON: &str = r#"
import sys
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

with connect(sys.argv[1]) as socket:
    try:
        print(socket.recv(), flush=True)
        socket.recv()
    except ConnectionClosed as closed:
        print(closed.rcvd.code, closed.rcvd.reason, closed.rcvd_then_sent, flush=True)
"#;

/// It speaks permessage-deflate, and is in the middle of a compressed frame.
#[tokio::test]
async fn python_is_closed() {
    if !is_there("python3", &["-c", "import websockets.sync.client"]).await {
        return;
    }
    let (rest, read) = (Arc::default(), Arc::default());
    let routes = in_a_frame(&rest, &read);
    let server = Under::Axum.start(Drain::new(), Duration::ZERO, routes);
    let url = format!("ws://{}/in-a-frame", server.address);
    let mut python = Command::new("python3");
    python.args(["-c", PYTHON, &url]);
    let [hello, close] = lines(&mut python, &server, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        rest.notify_one();
    })
    .await;
    let (code, reason) = CLOSE;
    assert_eq!(hello, "Hello");
    assert_eq!(close, format!("{code} {reason} True"));
    let drained = server.drained().await;
    assert!(drained.elapsed < Duration::from_secs(3), "{drained}");
}

/// Connects, and tells the server of the page how it was closed.
const PAGE: &str = r#"<script>
const socket = new WebSocket("URL");
socket.onclose = close => fetch(`/closed?${close.code}&${close.reason}&${close.wasClean}`);
</script>"#;

#[tokio::test]
async fn chromium_is_closed() {
    if !is_there("chromium", &["--version"]).await {
        return;
    }
    let server = Under::Serve.start(Drain::new(), Duration::ZERO, Router::new());
    let page = PAGE.replace("URL", &format!("ws://{}/ws", server.address));
    let (closed, mut how) = mpsc::unbounded_channel();
    let pages = Router::new().route("/", get(async || Html(page))).route(
        "/closed",
        any(async move |RawQuery(query): RawQuery| {
            closed.send(query.unwrap_or_default()).expect("it waits");
        }),
    );
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    tokio::spawn(async { axum::serve(tcp, pages).await });
    let profile = tempfile::tempdir().expect("possible");
    let _chromium = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu"])
        .args(["--disable-dev-shm-usage", "--remote-debugging-port=0"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{address}/"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("it has just run");
    begin_once_connected(&server.drain).await;
    let (code, reason) = CLOSE;
    let expected = format!("{code}&{}&true", reason.replace(' ', "%20"));
    assert_eq!(guarded(how.recv()).await.expect("a page"), expected);
    let drained = server.drained().await;
    assert!(drained.elapsed < Duration::from_secs(3), "{drained}");
}
