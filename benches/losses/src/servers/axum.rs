//! axum's own graceful shutdown.

use super::{BODY, Serving, Stop, work};
use crate::client::Mode;
use axum::{Router, routing::get};
use std::net::TcpListener;

pub(super) fn serve(listener: TcpListener, _: Mode, stop: Stop) -> Serving {
    Box::pin(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        axum::serve(listener, app())
            .with_graceful_shutdown(stop)
            .await?;
        Ok(())
    })
}

/// What all servers serve that can serve an axum app.
pub(super) fn app() -> Router {
    Router::new().route("/", get(answer))
}

async fn answer() -> &'static str {
    work().await;
    BODY
}
