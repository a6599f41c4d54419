//! actix-web, stopped by its handle. It brings its own threads.

use super::{BODY, Serving, Stop, TIMEOUT, work};
use crate::client::Mode;
use actix_web::{App, HttpServer, web};
use std::net::TcpListener;

pub(super) fn serve(listener: TcpListener, mode: Mode, stop: Stop) -> Serving {
    Box::pin(async move {
        let server = HttpServer::new(|| App::new().route("/", web::get().to(answer)))
            .workers(2)
            .shutdown_timeout(TIMEOUT.as_secs())
            .disable_signals();
        let server = match mode {
            Mode::KeepAlive | Mode::OneEach => server.listen(listener)?,
            Mode::Http2 => server.listen_auto_h2c(listener)?,
        }
        .run();
        let handle = server.handle();
        let stop = async {
            stop.await;
            handle.stop(true).await;
        };
        let (served, ()) = tokio::join!(server, stop);
        Ok(served?)
    })
}

async fn answer() -> &'static str {
    work().await;
    BODY
}
