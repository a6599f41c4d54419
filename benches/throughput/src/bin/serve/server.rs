//! The servers: each a process of its own, which is this binary in another role. It does what it is
//! told on its standard input, and says on its standard output what happened.

use axum::{Router, routing::get};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use std::{
    env,
    fs::read_to_string,
    future::pending,
    io::stdin,
    net::SocketAddr,
    process::Stdio,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};
use throughput::runtime;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot, watch},
    time::sleep,
};
use tower_graceful::Drain;

/// The argument that makes a server of this binary.
pub const ROLE: &str = "as";

/// For how long `serve` leaves a connection alone that has just become idle.
pub const SETTLE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Axum,
    AxumAgain,
    Loop,
    Ours,
    /// axum's server with our listener and layer.
    AxumWithOurs,
}

impl Kind {
    /// Those whose throughput is measured.
    pub const ALL: [Self; 4] = [Self::Axum, Self::AxumAgain, Self::Loop, Self::Ours];

    pub fn title(self) -> &'static str {
        match self {
            Self::Axum => "axum::serve",
            Self::AxumAgain => "axum::serve again",
            Self::Loop => "a bare loop",
            Self::Ours => "serve",
            Self::AxumWithOurs => "axum::serve, listener and layer",
        }
    }

    pub fn of(title: &str) -> Self {
        let mut all = Self::ALL.into_iter().chain([Self::AxumWithOurs]);
        all.find(|kind| kind.title() == title).expect("a title")
    }
}

/// One that runs, until this is dropped.
pub struct Server {
    pub address: SocketAddr,
    process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Server {
    pub async fn start(kind: Kind) -> Self {
        let mut process = Command::new(env::current_exe().expect("this binary"))
            .args([ROLE, kind.title()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a process");
        let orders = process.stdin.take().expect("piped");
        let answers = process.stdout.take().expect("piped");
        let mut answers = BufReader::new(answers).lines();
        let address = answers.next_line().await.expect("open").expect("a line");
        Self {
            address: address.parse().expect("an address"),
            process,
            orders,
            answers,
        }
    }

    pub async fn order(&mut self, order: &str) {
        let order = format!("{order}\n");
        self.orders.write_all(order.as_bytes()).await.expect("open");
    }

    pub async fn says(&mut self) -> String {
        let line = self.answers.next_line().await.expect("open");
        line.expect("it lives")
    }

    /// How many seconds after the order, and how.
    pub async fn ended(&mut self) -> (f64, String) {
        let line = self.says().await;
        let (after, how) = line.split_once(' ').expect("two words");
        (after.parse().expect("seconds"), how.to_owned())
    }

    /// Of its thread so far, in seconds.
    pub fn cpu_time(&self) -> f64 {
        let schedstat = self.proc("schedstat");
        let spent = schedstat.split(' ').next().expect("a first field");
        spent.parse::<f64>().expect("nanoseconds") / 1e9
    }

    /// What it has in memory, in bytes. Looked up page by page: the kernel's sums are rough.
    pub fn memory(&self) -> f64 {
        self.bytes("smaps_rollup", "Rss:")
    }

    /// The most that it has had in memory so far, in bytes.
    pub fn peak(&self) -> f64 {
        self.bytes("status", "VmHWM:")
    }

    fn bytes(&self, file: &str, name: &str) -> f64 {
        let lines = self.proc(file);
        let value = lines.lines().find_map(|line| line.strip_prefix(name));
        let value = value.and_then(|line| line.trim().strip_suffix(" kB"));
        let kilobytes: f64 = value.and_then(|kb| kb.parse().ok()).expect("kB");
        kilobytes * 1024.0
    }

    fn proc(&self, file: &str) -> String {
        let id = self.process.id().expect("it lives");
        read_to_string(format!("/proc/{id}/{file}")).expect("Linux")
    }
}

/// The process of one.
pub fn main(kind: Kind) {
    runtime().block_on(async {
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        println!("{}", tcp.local_addr().expect("bound"));
        let gate = watch::Sender::new(false);
        let waiting = gate.clone();
        let app = Router::new().route("/", get(async || "hello")).route(
            "/wait",
            get(async move || {
                let opened = waiting.subscribe().wait_for(|open| *open).await.is_ok();
                if opened { "hello" } else { "it is over" }
            }),
        );
        let drain = Drain::builder().settle(SETTLE).build();
        let (stop, stopped) = oneshot::channel();
        let server = run(kind, tcp, app, drain.clone(), stopped);
        tokio::spawn(async {
            let how = server.await;
            let began = BEGAN.get().expect("told to");
            println!("{} {how}", began.elapsed().as_secs_f64());
        });
        let mut stop = Some(stop);
        let mut orders = orders();
        while let Some(order) = orders.recv().await {
            match order.split_once(' ').unwrap_or((&order, "")) {
                ("await", all) => {
                    let all = all.parse().expect("a number");
                    while gate.receiver_count() < all {
                        sleep(Duration::from_millis(1)).await;
                    }
                    println!("they wait");
                }
                ("open", _) => drop(gate.send(true)),
                ("drain", _) => {
                    BEGAN.set(Instant::now()).expect("told once");
                    drain.begin();
                    stop = None;
                }
                (order, _) => panic!("{order:?}"),
            }
        }
        drop(stop);
    });
}

/// When it was told to stop.
static BEGAN: OnceLock<Instant> = OnceLock::new();

/// Serves until it is told to stop; then says what came of that. `stopped` errs then.
async fn run(
    kind: Kind,
    tcp: TcpListener,
    app: Router,
    drain: Drain,
    stopped: oneshot::Receiver<()>,
) -> String {
    match kind {
        Kind::Axum | Kind::AxumAgain => {
            let server = axum::serve(tcp, app).with_graceful_shutdown(async {
                let _ = stopped.await;
            });
            server.await.expect("it serves");
            "returned".to_owned()
        }
        Kind::Loop => loop {
            let Ok((tcp, _)) = tcp.accept().await else {
                continue;
            };
            let service = TowerToHyperService::new(app.clone());
            tokio::spawn(async move {
                let http = auto::Builder::new(TokioExecutor::new());
                let _ = http
                    .serve_connection_with_upgrades(TokioIo::new(tcp), service)
                    .await;
            });
        },
        Kind::Ours => match tower_graceful::serve(tcp, app).with_drain(drain).await {
            Ok(drained) => drained.to_string(),
            Err(timeout) => timeout.to_string(),
        },
        Kind::AxumWithOurs => {
            let app = app.layer(drain.layer());
            let server = axum::serve(drain.listener(tcp), app)
                .with_graceful_shutdown(drain.shutdown_signal());
            match drain.run(server, pending::<()>()).await {
                Ok(drained) => drained.to_string(),
                Err(error) => error.to_string(),
            }
        }
    }
}

/// The lines of the standard input, read on a thread of their own: the server's has no part in it.
fn orders() -> mpsc::UnboundedReceiver<String> {
    let (tell, orders) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in stdin().lines() {
            if tell.send(line.expect("text")).is_err() {
                return;
            }
        }
    });
    orders
}
