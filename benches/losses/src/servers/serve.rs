//! The same app on this crate's own server, without a layer.

use super::{Serving, Stop, TIMEOUT, axum::app};
use crate::client::Mode;
use std::net::TcpListener;
use tower_graceful::Drain;

pub(super) fn serve(listener: TcpListener, _: Mode, stop: Stop) -> Serving {
    Box::pin(async move {
        let drain = Drain::builder().timeout(TIMEOUT).build();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tower_graceful::serve(listener, app())
            .with_drain(drain)
            .exclusive()
            .shutdown_on(stop)
            .await?;
        Ok(())
    })
}
