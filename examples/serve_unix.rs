//! A server on a Unix socket, for a proxy on the same machine, and on TCP, under one drain.
//!
//! `cargo run --example serve_unix -- app.sock`, then `curl --unix-socket app.sock http://localhost`
//! or `curl localhost:3000`, and Ctrl-C here.

#[cfg(unix)]
mod unix {
    use axum::{Extension, Router, routing::get};
    use std::{
        env,
        error::Error,
        fs::{self, Permissions},
        io,
        os::unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::UnixStream,
        },
        path::{Path, PathBuf},
    };
    use tokio::net::{TcpListener, UnixListener};
    use tower_graceful::{Drain, server::Peer, signal};

    #[tokio::main]
    pub async fn main() -> Result<(), Box<dyn Error>> {
        // First in `main`: before this call, SIGTERM ends the process.
        let stop = signal::terminate();
        let path = match env::args_os().nth(1) {
            Some(path) => PathBuf::from(path),
            None => env::temp_dir().join("serve_unix.sock"),
        };
        let unix = bind(&path)?;
        // Lets the owner of the file and its group connect. Before this line the umask decides. If
        // that is too early, put the file into a directory that only they may enter.
        fs::set_permissions(&path, Permissions::from_mode(0o660))?;
        let tcp = TcpListener::bind("127.0.0.1:3000").await?;
        println!(
            "{} and http://localhost:3000, Ctrl-C to stop",
            path.display()
        );

        let drain = Drain::new();
        // Removes the file when the listener has closed. At the end of `main`, the file may already
        // be that of a new process.
        drain.on_shutdown(async move |_deadline| {
            if let Err(error) = fs::remove_file(&path) {
                eprintln!("{}: {error}", path.display());
            }
        });

        let server = tower_graceful::serve(unix, Router::new().route("/", get(hello)))
            .listen(tcp)
            .with_drain(drain)
            .shutdown_on(stop)
            .exclusive()
            .on_connect(|connection, extensions| {
                extensions.insert(connection.peer().clone());
            });
        println!("{}", server.await?);
        Ok(())
    }

    /// Binds the socket. Replaces the file of a process that has ended without removing it.
    fn bind(path: &Path) -> io::Result<UnixListener> {
        match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path)? => {
                fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            bound => bound,
        }
    }

    /// Returns whether the file is a socket on which no process listens. A connect to a file of
    /// another kind is refused, too.
    fn is_stale(path: &Path) -> io::Result<bool> {
        let refuses = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        Ok(fs::symlink_metadata(path)?.file_type().is_socket()
            && UnixStream::connect(path).is_err_and(refuses))
    }

    async fn hello(Extension(peer): Extension<Peer>) -> String {
        match peer.tcp() {
            Some(address) => format!("hello, {address}\n"),
            None => "hello, neighbour\n".to_owned(),
        }
    }
}

#[cfg(unix)]
use unix::main;

#[cfg(not(unix))]
fn main() {
    println!("There are no Unix sockets here.");
}
