//! axum-server, stopped by its handle.

use super::{Serving, Stop, TIMEOUT, axum::app};
use crate::client::Mode;
use axum_server::Handle;
use std::net::TcpListener;

pub(super) fn serve(listener: TcpListener, _: Mode, stop: Stop) -> Serving {
    Box::pin(async move {
        let handle = Handle::new();
        let server = axum_server::from_tcp(listener)?.handle(handle.clone());
        let stop = async {
            stop.await;
            handle.graceful_shutdown(Some(TIMEOUT));
        };
        let (served, ()) = tokio::join!(server.serve(app().into_make_service()), stop);
        Ok(served?)
    })
}
