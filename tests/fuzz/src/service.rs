//! The service that hyper calls. A request chooses its answer by the first letter of its path.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    cell::Cell,
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

/// Counts the calls, and says when each goes on.
pub(crate) struct Calls {
    /// Counts the steps.
    now: Cell<usize>,
    /// Counts the steps that a call waits for, and each part of a body.
    hold: Cell<usize>,
    started: Cell<usize>,
    /// Counts the calls without an answer.
    unanswered: Cell<usize>,
    /// Counts the calls whose response has not ended.
    live: Cell<usize>,
    /// Says whether the last request was the probe, and nothing but that.
    probed: Cell<bool>,
}

impl Calls {
    pub(crate) fn new(hold: usize) -> Self {
        Self {
            now: Cell::new(0),
            hold: Cell::new(hold),
            started: Cell::new(0),
            unanswered: Cell::new(0),
            live: Cell::new(0),
            probed: Cell::new(false),
        }
    }

    pub(crate) fn tick(&self) {
        self.now.set(self.now.get().saturating_add(1));
    }

    /// Has nothing wait any more.
    pub(crate) fn release(&self) {
        self.hold.set(0);
        self.now.set(usize::MAX);
    }

    pub(crate) fn started(&self) -> usize {
        self.started.get()
    }

    /// Returns how many calls have started, are not answered, and have not ended.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        (self.started(), self.unanswered.get(), self.live.get())
    }

    pub(crate) fn was_probed(&self) -> bool {
        self.probed.get()
    }

    fn next(&self) -> usize {
        self.now.get().saturating_add(self.hold.get())
    }
}

/// Counts a number up, and down when it is dropped.
struct Counted(Rc<Calls>, fn(&Calls) -> &Cell<usize>);

impl Counted {
    fn new(calls: &Rc<Calls>, of: fn(&Calls) -> &Cell<usize>) -> Self {
        of(calls).set(of(calls).get() + 1);
        Self(calls.clone(), of)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let cell = self.1(&self.0);
        cell.set(cell.get() - 1);
    }
}

pub(crate) struct Answers(pub(crate) Rc<Calls>);

impl hyper::service::Service<Request<Incoming>> for Answers {
    type Response = Response<Parts>;
    type Error = io::Error;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let calls = &self.0;
        calls.started.set(calls.started.get() + 1);
        calls.probed.set(
            request.method() == Method::GET
                && request.uri() == "/probe"
                && request.headers().is_empty(),
        );
        Answer {
            request,
            at: calls.next(),
            live: Some(Counted::new(calls, |calls| &calls.live)),
            _unanswered: Counted::new(calls, |calls| &calls.unanswered),
        }
    }
}

pub(crate) struct Answer {
    request: Request<Incoming>,
    at: usize,
    live: Option<Counted>,
    _unanswered: Counted,
}

impl Future for Answer {
    type Output = io::Result<Response<Parts>>;

    // Each step polls again, so no waker is kept.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let live = this.live.as_ref().expect("is not polled after it is ready");
        let calls = live.0.clone();
        if calls.now.get() < this.at {
            return Poll::Pending;
        }
        let kind = this.request.uri().path().as_bytes().get(1).copied();
        if kind == Some(b'r') {
            // Reads the request's body first.
            while let Some(frame) = ready!(Pin::new(this.request.body_mut()).poll_frame(cx)) {
                frame.map_err(io::Error::other)?;
            }
        }
        let (status, parts, is_exact): (_, &[&str], _) = match kind {
            _ if this.request.method() == Method::CONNECT => (StatusCode::OK, &[], true),
            Some(b'c') => (StatusCode::OK, &["one", "two"], false),
            Some(b'm') => (StatusCode::NOT_MODIFIED, &[], true),
            Some(b'n') => (StatusCode::NO_CONTENT, &[], true),
            Some(b'u') if this.request.headers().contains_key(header::UPGRADE) => {
                (StatusCode::SWITCHING_PROTOCOLS, &[], true)
            }
            Some(b'x') => return Poll::Ready(Err(io::ErrorKind::Other.into())),
            Some(b'z') => (StatusCode::OK, &[], true),
            _ => (StatusCode::OK, &["all"], true),
        };
        let mut frames: VecDeque<_> = parts
            .iter()
            .map(|part| Frame::data(Bytes::from(*part)))
            .collect();
        if kind == Some(b't') {
            frames.push_back(Frame::trailers(HeaderMap::new()));
        }
        let body = Parts {
            frames,
            is_exact,
            at: calls.next(),
            live: this.live.take().expect("was there"),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        Poll::Ready(Ok(response))
    }
}

/// Is the body of a response. Its parts come one by one.
pub(crate) struct Parts {
    frames: VecDeque<Frame<Bytes>>,
    /// Says whether the length is known before.
    is_exact: bool,
    at: usize,
    live: Counted,
}

impl Body for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.live.0.now.get() < self.at {
            return Poll::Pending;
        }
        self.at = self.live.0.next();
        Poll::Ready(self.frames.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.is_exact && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.frames.iter().filter_map(Frame::data_ref);
        match self.is_exact {
            true => SizeHint::with_exact(data.map(|data| data.len() as u64).sum()),
            false => SizeHint::default(),
        }
    }
}
