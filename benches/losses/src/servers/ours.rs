//! The same axum, with this crate. No lame duck: the others have none either.

use super::{Serving, Stop, TIMEOUT, axum::app};
use crate::client::Mode;
use std::net::TcpListener;
use tower_graceful::Drain;

pub(super) fn serve(listener: TcpListener, _: Mode, stop: Stop) -> Serving {
    Box::pin(async move {
        let drain = Drain::builder().timeout(TIMEOUT).build();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let listener = drain.listener(listener).exclusive();
        let server = axum::serve(listener, app().layer(drain.layer()))
            .with_graceful_shutdown(drain.shutdown_signal());
        drain.run(server, stop).await?;
        Ok(())
    })
}
