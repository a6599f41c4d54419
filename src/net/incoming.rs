use super::{closing::ListenerState, drain_io::DrainIo, socket};
use crate::drain::Drain;
use futures_core::Stream;
use pin_project_lite::pin_project;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

pin_project! {
    /// Yields connections and counts them for a drain; made by [`Drain::incoming`].
    ///
    /// It does for a stream of connections, such as tonic's `TcpIncoming`, what a
    /// [`DrainListener`](crate::net::DrainListener) does for a listener. It ends when servers get
    /// their shutdown signal, and tonic stops then.
    ///
    #[cfg_attr(feature = "tonic", doc = "```no_run")]
    #[cfg_attr(not(feature = "tonic"), doc = "```ignore")]
    /// use tonic::transport::{Server, server::TcpIncoming};
    /// use tower_graceful::{Drain, signal};
    /// # use axum::Router as Routes; // needs no feature of tonic's
    ///
    /// # async fn f(routes: Routes) -> Result<(), Box<dyn std::error::Error>> {
    /// let drain = Drain::new();
    /// let incoming = TcpIncoming::bind("127.0.0.1:50051".parse()?)?;
    ///
    /// let server = Server::builder().layer(drain.layer()).serve_with_incoming_shutdown(
    ///     routes,
    ///     drain.incoming(incoming),
    ///     drain.shutdown_signal(),
    /// );
    /// println!("{}", drain.run(server, signal::terminate()).await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The accept queue of the inner stream cannot be read. So the stream is polled until the
    /// [settling](crate::DrainBuilder::settle) is over, and then dropped. Connections that it
    /// yields until then are served. A [`DrainListener`](crate::net::DrainListener) is a stream too, and
    /// reads its queue: if you have a listener, give tonic that.
    #[derive(Debug)]
    pub struct DrainIncoming<S> {
        // `None` once it is closed.
        #[pin]
        incoming: Option<S>,
        state: ListenerState,
    }
}

impl<S> DrainIncoming<S> {
    pub(super) fn new(incoming: S, drain: &Drain) -> Self {
        Self {
            incoming: Some(incoming),
            state: ListenerState::new(drain),
        }
    }

    /// Sets whether TCP_NODELAY is set on connections that are a `TcpStream`. Default: `true`.
    ///
    /// Connections of other types keep the options that their stream has given them.
    pub fn tcp_nodelay(mut self, nodelay: bool) -> Self {
        self.state.options.nodelay = nodelay;
        self
    }

    /// Sets after how long without traffic a connection that is a `TcpStream` is probed by TCP
    /// keep-alive. Default: `None`, no keep-alive.
    pub fn tcp_keepalive(mut self, keepalive: impl Into<Option<Duration>>) -> Self {
        self.state.options.keepalive = keepalive.into();
        self
    }
}

impl<S, T, E> Stream for DrainIncoming<S>
where
    S: Stream<Item = Result<T, E>>,
    T: 'static,
{
    type Item = Result<DrainIo<T>, E>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        if let Some(mut incoming) = this.incoming.as_mut().as_pin_mut() {
            let is_open = this.state.poll_open(cx);
            let accept = |cx: &mut Context<'_>| {
                incoming.as_mut().poll_next(cx).map(|next| match next {
                    // While closing, an error is not returned: the next connection may succeed.
                    Some(Err(_)) if !is_open => None,
                    next => Some(next),
                })
            };
            match ready!(this.state.poll_accept(cx, accept)).flatten() {
                Some(Ok(io)) => {
                    if let Some(registered) = this.state.admit(&io, socket::peer(&io)) {
                        return Poll::Ready(Some(Ok(DrainIo::accepted(io, registered))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {}
            }
            this.incoming.set(None);
            this.state.close();
        }
        this.state.poll_ended(cx).map(|()| None)
    }
}

#[cfg(feature = "tonic")]
impl<T: tonic::transport::server::Connected> tonic::transport::server::Connected for DrainIo<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.get_ref().connect_info()
    }
}
