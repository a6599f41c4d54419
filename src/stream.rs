//! Streams and bodies that end cleanly with the drain, at [`Phase::Draining`], instead of being
//! aborted.

use crate::drain::{Drain, Phase, Reached, Shared};
use futures_core::Stream;
use http::{
    HeaderValue, Response,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// Tells when a stream has to end.
struct End {
    shared: Arc<Shared>,
    reached: Reached,
}

impl End {
    fn new(drain: &Drain) -> Self {
        Self {
            shared: drain.shared().clone(),
            // Without `Drain::reached`: this stops no server.
            reached: Reached::stage(drain.shared().clone(), Phase::Draining.first_stage()),
        }
    }

    /// Polls for the next item. Returns `None` if it is time to end.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        next: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Option<Poll<T>> {
        // Before each item, without registering a waker.
        if self.shared.phase_by_now() >= Phase::Draining {
            return None;
        }
        let polled = next(cx);
        let ends = polled.is_pending() && Pin::new(&mut self.reached).poll(cx).is_ready();
        (!ends).then_some(polled)
    }
}

impl Drain {
    /// Ends a stream at [`Phase::Draining`], between two items.
    ///
    /// The client sees a regular end, and the drain does not have to wait until its deadline. The
    /// inner stream is dropped at the end, with all items that it has not yielded.
    ///
    /// Use it for event streams, for subscriptions and for loops of your own. A gRPC server stream
    /// should have a [last item](EndStream::with_last) that tells the client why it ends.
    ///
    /// ```
    /// use axum::response::{Sse, sse::Event};
    /// use futures_util::{Stream, stream};
    /// use std::convert::Infallible;
    /// use tower_graceful::Drain;
    ///
    /// fn events(drain: &Drain) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<>> {
    ///     let ticks = stream::repeat_with(|| Ok(Event::default().data("tick")));
    ///     let last = Event::default().event("bye").data("moving");
    ///     Sse::new(drain.end_stream(ticks).with_last(Ok(last)))
    /// }
    /// # events(&Drain::new());
    /// ```
    pub fn end_stream<S: Stream>(&self, stream: S) -> EndStream<S> {
        EndStream {
            stream: Some(stream),
            end: End::new(self),
            last: None,
        }
    }

    /// Ends a response body at [`Phase::Draining`], between two frames.
    ///
    /// A body with a [known length](Body::size_hint) is not ended, as an early end would break the
    /// response. With any other body, the client cannot see that the end is early. So do not use
    /// this for downloads. Do not use it for gRPC either, where the trailers would be missing: end
    /// the [stream](Self::end_stream) instead. [`end_response`](Self::end_response) ends only event
    /// streams.
    pub fn end_body<B: Body>(&self, body: B) -> EndBody<B> {
        let ends = body.size_hint().exact().is_none();
        self.end_body_if(ends, body)
    }

    /// Ends the body of a response at [`Phase::Draining`] if it is an event stream
    /// (`text/event-stream`), and changes no other response.
    ///
    /// Use it in a layer around handlers that you do not want to change. Three kinds of event
    /// streams are not ended: those with a known length, those with a `Content-Encoding` (the
    /// encoded data would be incomplete), and those with the extension [`Finite`], which have an
    /// end of their own. The drain waits for them.
    ///
    /// ```
    /// use axum::{Router, middleware::map_response, response::Response, routing::get};
    /// use std::future::ready;
    /// use tower_graceful::Drain;
    ///
    /// # async fn events() {}
    /// let drain = Drain::new();
    /// let ends = drain.clone();
    /// let app: Router = Router::new()
    ///     .route("/events", get(events))
    ///     .layer(map_response(move |response: Response| {
    ///         ready(ends.end_response(response))
    ///     }))
    ///     .layer(drain.layer());
    /// ```
    pub fn end_response<B: Body>(&self, response: Response<B>) -> Response<EndBody<B>> {
        let headers = response.headers();
        let media_type = |value: &HeaderValue| {
            let value = value.to_str().unwrap_or_default();
            let name = value.split(';').next().unwrap_or_default().trim();
            name.eq_ignore_ascii_case("text/event-stream")
        };
        let ends = headers.get(CONTENT_TYPE).is_some_and(media_type)
            && !headers.contains_key(CONTENT_LENGTH)
            && !headers.contains_key(CONTENT_ENCODING)
            && response.extensions().get::<Finite>().is_none();
        response.map(|body| {
            let ends = ends && body.size_hint().exact().is_none();
            self.end_body_if(ends, body)
        })
    }

    fn end_body_if<B: Body>(&self, ends: bool, body: B) -> EndBody<B> {
        EndBody {
            body: Some(body),
            end: ends.then(|| End::new(self)),
            last: None,
        }
    }
}

/// Says, as an extension of a response, that its stream ends by itself: [`Drain::end_response`]
/// does not end it.
///
/// For an event stream that a client cannot resume, such as the tokens of a language model, or the
/// progress of a job. The drain waits for its end, until the deadline.
///
/// ```
/// use axum::{
///     Extension,
///     response::{IntoResponse, Sse, sse::Event},
/// };
/// use futures_util::stream;
/// use std::convert::Infallible;
/// use tower_graceful::stream::Finite;
///
/// async fn tokens() -> impl IntoResponse {
///     let tokens = ["Once", "upon", "a", "time"];
///     let events = tokens.map(|token| Ok::<_, Infallible>(Event::default().data(token)));
///     (Extension(Finite), Sse::new(stream::iter(events)))
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Finite;

pin_project! {
    /// Ends the inner stream with the drain; made by [`Drain::end_stream`].
    #[must_use = "streams do nothing unless polled"]
    pub struct EndStream<S: Stream> {
        // `None` once it has ended.
        #[pin]
        stream: Option<S>,
        end: End,
        last: Option<S::Item>,
    }
}

impl<S: Stream> EndStream<S> {
    /// Adds a last item, which is yielded if the drain ends the stream.
    ///
    /// For example, an event that announces the end, or a gRPC status that makes the client call
    /// again:
    ///
    /// ```
    /// # use tower_graceful::Drain;
    /// # struct Status; impl Status { fn unavailable(_: &str) -> Self { Self } }
    /// # let greetings = futures_util::stream::iter([Ok::<_, Status>(1)]);
    /// # let drain = Drain::new();
    /// let greetings = drain
    ///     .end_stream(greetings)
    ///     .with_last(Err(Status::unavailable("moving; call again"))); // tonic's
    /// ```
    pub fn with_last(mut self, item: S::Item) -> Self {
        self.last = Some(item);
        self
    }
}

impl<S: Stream> Stream for EndStream<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let mut this = self.project();
        let Some(stream) = this.stream.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let item = match this.end.poll(cx, |cx| stream.poll_next(cx)) {
            Some(Poll::Ready(None)) => None,
            Some(polled) => return polled,
            None => this.last.take(),
        };
        // Drop the inner stream, and all that it holds, before the client reads the end.
        this.stream.set(None);
        Poll::Ready(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let Some(stream) = &self.stream else {
            return (0, Some(0));
        };
        // The stream may end now, or after the last item.
        let last = usize::from(self.last.is_some());
        let most = stream.size_hint().1;
        (0, most.and_then(|most| most.checked_add(last)))
    }
}

pin_project! {
    /// Ends the inner body with the drain; made by [`Drain::end_body`].
    #[must_use = "bodies do nothing unless polled"]
    pub struct EndBody<B: Body> {
        // `None` once it has ended.
        #[pin]
        body: Option<B>,
        // `None` if the drain does not end it.
        end: Option<End>,
        last: Option<B::Data>,
    }
}

impl<B: Body> EndBody<B> {
    /// Adds last bytes, which are sent if the drain ends the body: `event: bye\ndata: moving\n\n`.
    pub fn with_last(mut self, data: B::Data) -> Self {
        self.last = Some(data);
        self
    }
}

impl<B: Body> Body for EndBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(mut body) = this.body.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let mut next = |cx: &mut Context<'_>| body.as_mut().poll_frame(cx);
        let polled = match this.end {
            Some(end) => end.poll(cx, next),
            None => Some(next(cx)),
        };
        let Some(frame) = polled else {
            this.body.set(None);
            return Poll::Ready(this.last.take().map(|data| Ok(Frame::data(data))));
        };
        if let Poll::Ready(frame) = &frame {
            let ended = match frame {
                Some(Ok(frame)) => frame.is_trailers() || body.is_end_stream(),
                Some(Err(_)) | None => true,
            };
            // The inner body has ended by itself, so the last bytes are not sent.
            if ended {
                *this.last = None;
                this.body.set(None);
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.body, &self.end) {
            (None, _) => SizeHint::with_exact(0),
            (Some(body), None) => body.size_hint(),
            // The body may end now, or after the last bytes.
            (Some(_), Some(_)) => SizeHint::default(),
        }
    }
}

impl<S: Stream> fmt::Debug for EndStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndStream")
            .field("phase", &self.end.shared.phase())
            .field("ended", &self.stream.is_none())
            .finish_non_exhaustive()
    }
}

impl<B: Body> fmt::Debug for EndBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndBody")
            .field("ends", &self.end.is_some())
            .field("ended", &self.body.is_none())
            .finish_non_exhaustive()
    }
}
