//! Counts or refuses each call, as the layer does, and records it on its connection.

use super::{config::Exemptions, listener::Peer};
use crate::{
    body::ResponseBody,
    close::Closing,
    drain::{Connection, ConnectionGuard, CounterHandle, Current, Key, Shared, Stage, uncounted},
    future::{Admitted, ResponseFuture},
    log,
    refusal::{Answer, AtDeadline, Refusal, unavailable},
    service::is_late_upgrade,
};
use http::{Extensions, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::service::{TowerToHyperService, TowerToHyperServiceFuture};
use pin_project_lite::pin_project;
use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tower::BoxError;
use tower_service::Service;

/// Is implemented for each service that [`serve`](crate::serve) can serve: an HTTP service that is
/// cloned for each request, such as an axum `Router`, tonic's `Routes`, a `ServiceBuilder` chain
/// or a `service_fn`.
///
/// Its request body is hyper's [`Incoming`]. Its response body may be any [`Body`] that is `Send`
/// and whose error is an error.
#[diagnostic::on_unimplemented(
    message = "`serve` cannot serve `{Self}`",
    label = "is not an HTTP service for `serve`",
    note = "give it the service of one request, and not what makes services: axum's `Router` itself, \
            without `into_make_service()` or `into_make_service_with_connect_info()`; `ConnectInfo` \
            is there with the feature `axum`",
    note = "an HTTP service is a `tower::Service<http::Request<hyper::body::Incoming>>` with a \
            `http::Response<B>`, and it is `Clone + Send + 'static`, as are its future and `B`"
)]
pub trait HttpService:
    Service<
        Request<Incoming>,
        Response = Response<<Self as HttpService>::Body>,
        Future: Send + 'static,
        Error: Into<Box<dyn Error + Send + Sync>>,
    > + Clone
    + Send
    + 'static
{
    /// Names the type of the response body.
    type Body: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;
}

#[diagnostic::do_not_recommend]
impl<S, B> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Body = B;
}

/// Makes the service of each connection, and the responses to refused requests.
pub(super) struct Services<S> {
    pub(super) make: Box<dyn FnMut(&Peer) -> S + Send>,
    pub(super) answers: Answers<S>,
}

/// Replaces default responses.
pub(super) struct Answers<S> {
    /// Replaces the default refusal.
    pub(super) refusal: Option<Arc<dyn Refuse<S, Incoming>>>,
    pub(super) at_deadline: LateAnswer<S>,
}

/// Makes the answer at the deadline: the default one, if it is `None`.
pub(super) struct LateAnswer<S>(pub(super) Option<Arc<dyn Refuse<S, ()>>>);

/// Hides the type of a [`Refusal`] to the response of a service.
pub(super) trait Refuse<S, ReqBody>: Send + Sync {
    fn refuse(&self, request: &Request<ReqBody>) -> Answer<S::Body>
    where
        S: HttpService;

    fn answers(&self) -> bool;
}

impl<S, R, ReqBody> Refuse<S, ReqBody> for R
where
    S: HttpService,
    R: Refusal<ReqBody, S::Body> + Send + Sync,
{
    fn refuse(&self, request: &Request<ReqBody>) -> Answer<S::Body> {
        Refusal::refuse(self, request)
    }

    fn answers(&self) -> bool {
        Refusal::answers(self)
    }
}

impl<S: HttpService> Refusal<(), S::Body> for LateAnswer<S> {
    fn refuse(&self, request: &Request<()>) -> Answer<S::Body> {
        match &self.0 {
            Some(answer) => answer.refuse(request),
            None => Refusal::refuse(&AtDeadline, request),
        }
    }

    #[inline]
    fn answers(&self) -> bool {
        self.0.as_ref().is_none_or(|answer| answer.answers())
    }
}

/// Clones by hand: derived, these would ask for `S: Clone`.
impl<S> Clone for LateAnswer<S> {
    #[inline]
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Clone for Answers<S> {
    fn clone(&self) -> Self {
        Self {
            refusal: self.refusal.clone(),
            at_deadline: self.at_deadline.clone(),
        }
    }
}

/// Serves the requests of one connection for hyper.
pub(super) struct ConnectionService<S> {
    pub(super) inner: TowerToHyperService<S>,
    pub(super) handle: CounterHandle<Shared>,
    pub(super) connection: Arc<Connection>,
    /// Keeps the connection counted.
    pub(super) registered: ConnectionGuard,
    /// Extends the extensions of each request.
    pub(super) extensions: Option<Extensions>,
    /// Says whether reports list the requests.
    pub(super) reports_requests: bool,
    pub(super) exempt: Option<Exemptions>,
    pub(super) answers: Answers<S>,
}

impl<S: HttpService> hyper::service::Service<Request<Incoming>> for ConnectionService<S> {
    type Response = Response<ConnectionBody<S::Body>>;
    type Error = BoxError;
    type Future =
        ConnectionFuture<TowerToHyperServiceFuture<S, Request<Incoming>>, S::Body, LateAnswer<S>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(extensions) = &self.extensions {
            request.extensions_mut().extend(extensions.clone());
        }
        let closing = Closing::of(&request);
        let multiplexed = request.version() == Version::HTTP_2;
        let is_exempt = self.is_exempt(&request);
        let mut call = (!multiplexed).then(|| ActiveCall::new(&self.connection, is_exempt));
        let admitted = match is_exempt {
            true => Some(uncounted()),
            false => self.handle.admit(|| is_late_upgrade(&request)),
        };
        let answer = &self.answers.at_deadline;
        let token = match (admitted, &mut call) {
            (Some(token), _) if self.reports_requests => {
                Some(token.listed(&request, self.connection.peer()))
            }
            (Some(token), _) => Some(token),
            (None, Some(call)) if self.admits_late(&request) => {
                let answers = Refusal::<(), _>::answers(answer);
                call.late = Some(Box::new(Late::new(&self.registered, answers)));
                Some(uncounted())
            }
            (None, _) => None,
        };
        let name = log::Call::of::<_, S::Error>(&request);
        let Some(token) = token else {
            self.handle.count_refused();
            let refusal = self.answers.refusal.as_ref();
            let refused = |refusal: &Arc<dyn Refuse<S, Incoming>>| {
                ResponseFuture::refused(refusal.refuse(&request), closing)
            };
            return ConnectionFuture {
                response: refusal.map(refused),
                handle: self.handle,
                name,
                closing,
                call,
            };
        };
        // Of an exempt request, the end of `ConnectionFuture::poll` decides.
        let closes = if is_exempt { Closing::NEVER } else { closing };
        let admitted = Admitted::new(closes, token, answer.clone());
        let _current = Current::of_server(&self.handle);
        // In one expression: each step of its own costs a copy of the request.
        ConnectionFuture {
            response: Some(ResponseFuture::admitted(self.inner.call(request), admitted)),
            handle: self.handle,
            name,
            closing,
            call,
        }
    }
}

impl<S> ConnectionService<S> {
    #[inline]
    fn is_exempt(&self, request: &Request<Incoming>) -> bool {
        let exempt = self.exempt.as_ref();
        exempt.is_some_and(|exempt| exempt.is_exempt(request))
    }

    /// Returns whether a request is admitted that came too late to be counted.
    ///
    /// Its client does not know of the drain: the head of the previous response was sent before.
    /// The drain waits for the connection, and this response carries `Connection: close`.
    #[cold]
    fn admits_late(&self, request: &Request<Incoming>) -> bool {
        self.connection.stage() < Stage::Forced && !is_late_upgrade(request)
    }
}

/// Keeps an HTTP/1 connection from being idle during a call.
struct ActiveCall {
    connection: Arc<Connection>,
    is_exempt: bool,
    late: Option<Box<Late>>,
}

/// Keeps the connection counted during a call that is not counted itself.
struct Late {
    registered: ConnectionGuard,
    /// Says whether the request is answered at the deadline.
    is_answered: bool,
    place: Option<Key>,
}

impl Late {
    fn new(registered: &ConnectionGuard, is_answered: bool) -> Self {
        Self {
            registered: registered.clone(),
            is_answered,
            place: None,
        }
    }

    /// Handles that the response is pending. Returns whether the request has to be answered.
    #[cold]
    fn pending(&mut self, cx: &Context<'_>) -> bool {
        let connection = self.registered.connection();
        let is_due = self.is_answered && connection.answer_is_due(&mut self.place, cx.waker());
        if is_due {
            connection.stop_waiting(&mut self.place);
        }
        is_due
    }
}

impl ActiveCall {
    fn new(connection: &Arc<Connection>, is_exempt: bool) -> Self {
        connection.call_started();
        Self {
            connection: connection.clone(),
            is_exempt,
            late: None,
        }
    }

    /// Returns whether the connection closes after a response for which the drain does not decide.
    fn closes(&self) -> bool {
        self.connection.retires() || (self.is_exempt && self.connection.stage() > Stage::Serving)
    }
}

impl Drop for ActiveCall {
    fn drop(&mut self) {
        self.connection.call_finished();
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        let connection = self.registered.connection();
        connection.stop_waiting(&mut self.place);
        connection.count_completed_late();
    }
}

pin_project! {
    pub(super) struct ConnectionFuture<F, B, A> {
        // `None` for a request that is refused by default.
        #[pin]
        response: Option<ResponseFuture<F, B, A>>,
        handle: CounterHandle<Shared>,
        // What is logged if the call fails.
        name: log::Call,
        closing: Closing,
        // Last, so that all else is dropped before the connection counts as idle.
        call: Option<ActiveCall>,
    }
}

impl<F, B, A, E> Future for ConnectionFuture<F, B, A>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
    A: Refusal<(), B>,
    E: Into<BoxError>,
{
    type Output = Result<Response<ConnectionBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match this.response.as_pin_mut() {
            Some(mut response) => {
                let polled = {
                    let _current = Current::of_server(this.handle);
                    response.as_mut().poll(cx)
                };
                match polled {
                    Poll::Ready(result) => result.map_err(Into::into),
                    Poll::Pending => {
                        let late = this.call.as_mut().and_then(|call| call.late.as_mut());
                        match late.is_some_and(|late| late.pending(cx)) {
                            true => Ok(response.answer()),
                            false => return Poll::Pending,
                        }
                    }
                }
            }
            None => Err(NotExecuted.into()),
        };
        let mut response = match result {
            Ok(response) => response,
            Err(error) if error.is::<NotExecuted>() => match this.call {
                // HTTP/1 has nothing for it but a response.
                Some(_) => unavailable(Some(1), *this.closing).map(|()| ResponseBody::default()),
                None => return Poll::Ready(Err(refused_stream())),
            },
            Err(error) if is_overload(&*error) => {
                this.name.unavailable(&*error);
                // The connection is kept, unless it closes anyway.
                let call = this.call.as_ref();
                let closes = call.is_some_and(|call| call.connection.stage() > Stage::Serving);
                let closing = if closes {
                    *this.closing
                } else {
                    Closing::NEVER
                };
                unavailable(Some(1), closing).map(|()| ResponseBody::default())
            }
            Err(error) => {
                this.name.failed(&*error);
                return Poll::Ready(Err(error));
            }
        };
        let call = this.call.as_ref();
        if call.is_some_and(ActiveCall::closes) {
            response = this.closing.put_on_response(response);
        }
        let call = this.call.take();
        Poll::Ready(Ok(response.map(|inner| ConnectionBody { inner, call })))
    }
}

/// Returns the error of which hyper makes a RST_STREAM with REFUSED_STREAM. The client may then
/// send the request elsewhere, whatever its method (RFC 9113, section 8.7).
#[cold]
fn refused_stream() -> BoxError {
    h2::Error::from(h2::Reason::REFUSED_STREAM).into()
}

/// Returns whether a layer of tower failed because the service had no capacity or no time.
#[cold]
fn is_overload(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<tower::load_shed::error::Overloaded>()
            || error.is::<tower::timeout::error::Elapsed>()
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// Says that a service under [`serve`](crate::serve) has not begun to execute the request.
///
/// Over HTTP/2, the answer is a RST_STREAM with REFUSED_STREAM. Clients then send the request
/// elsewhere, whatever its method ([RFC 9113, section
/// 8.7](https://www.rfc-editor.org/rfc/rfc9113#section-8.7)). Over HTTP/1, the answer is a 503.
///
/// Use it in the outermost layers, which know that no handler was called. A handler that has done
/// something must not return it. For other errors, see
/// [`serve`](crate::serve#errors-of-the-service).
///
/// ```
/// use http::{Request, Response};
/// use tower::{BoxError, ServiceBuilder, load_shed::error::Overloaded, service_fn};
/// use tower_graceful::server::NotExecuted;
/// # use std::convert::Infallible;
///
/// // Requests beyond the limit are shed, and clients may send them to another server.
/// let service = ServiceBuilder::new()
///     .map_err(|error: BoxError| match error.is::<Overloaded>() {
///         true => NotExecuted::default().into(),
///         false => error,
///     })
///     .load_shed()
///     .concurrency_limit(1000)
///     .service(service_fn(async |_: Request<hyper::body::Incoming>| {
///         Ok::<_, Infallible>(Response::new(String::new()))
///     }));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotExecuted;

impl fmt::Display for NotExecuted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was not executed")
    }
}

impl Error for NotExecuted {}

pin_project! {
    pub(super) struct ConnectionBody<B> {
        #[pin]
        inner: ResponseBody<B>,
        // Last, as in the future.
        call: Option<ActiveCall>,
    }
}

impl<B: Body> Body for ConnectionBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
