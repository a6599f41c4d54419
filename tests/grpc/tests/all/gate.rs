//! The service under test: each call reports that it is in its handler, and waits for the test.

tonic::include_proto!("gate");

use crate::soon;
use futures_util::{Stream, StreamExt, stream};
use std::{pin::Pin, sync::Arc};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};
use tower_graceful::Drain;

/// The status message of `Listen` at the drain. The layer or a broken connection would give another
/// one.
pub const FAREWELL: &str = "moving; go on at 42";

#[derive(Clone)]
pub struct Gate {
    drain: Drain,
    entered: Arc<Semaphore>,
    leave: Arc<Semaphore>,
}

impl Gate {
    pub fn new(drain: &Drain) -> Self {
        Self {
            drain: drain.clone(),
            entered: Arc::new(Semaphore::new(0)),
            leave: Arc::new(Semaphore::new(0)),
        }
    }

    /// Waits until one more call is in its handler.
    pub async fn entered(&self) {
        soon("a call in its handler", take(&self.entered)).await;
    }

    /// Lets one call go.
    pub fn let_go(&self) {
        self.leave.add_permits(1);
    }
}

async fn take(semaphore: &Semaphore) {
    semaphore
        .acquire()
        .await
        .expect("a semaphore that nobody closes")
        .forget();
}

#[tonic::async_trait]
impl gate_server::Gate for Gate {
    async fn hold(&self, request: Request<Text>) -> Result<Response<Text>, Status> {
        self.entered.add_permits(1);
        take(&self.leave).await;
        Ok(Response::new(request.into_inner()))
    }

    type ListenStream = Pin<Box<dyn Stream<Item = Result<Text, Status>> + Send>>;

    async fn listen(&self, request: Request<Text>) -> Result<Response<Self::ListenStream>, Status> {
        let mut farewell = Status::unavailable(FAREWELL);
        farewell
            .metadata_mut()
            .insert("go-on-at", MetadataValue::from_static("42"));
        let echo = stream::iter([Ok(request.into_inner())]);
        let endless = self.drain.end_stream(echo.chain(stream::pending()));
        Ok(Response::new(Box::pin(endless.with_last(Err(farewell)))))
    }

    async fn upload(
        &self,
        mut request: Request<Streaming<Text>>,
    ) -> Result<Response<Text>, Status> {
        self.entered.add_permits(1);
        let mut whole = Text::default();
        while let Some(part) = request.get_mut().message().await? {
            whole.text += &part.text;
        }
        Ok(Response::new(whole))
    }
}

pub fn text(text: &str) -> Text {
    Text { text: text.into() }
}
