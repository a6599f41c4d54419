//! The one thing that is done with each stack: a request, from the clone of the service to the
//! end of the response body.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use std::{
    any::Any,
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};
use tower::{Layer, Service, service_fn, util::ServiceFn};

/// A layer around [`Bare`], set up once and then called from any thread.
pub struct Stack {
    service: Box<dyn Served>,
    pub growth: Growth,
    /// Kept, as an application keeps it: what is shared by all services may live in it.
    _layer: Box<dyn Any + Send + Sync>,
}

/// By how many bytes the layer makes futures and bodies larger.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// The response future, if the inner one is a `Pin<Box<dyn Future>>`.
    pub boxed_future: usize,
    /// The response future, if the inner one is a [`Ready`], which holds a whole response.
    pub ready_future: usize,
    pub body: usize,
}

impl Stack {
    pub(crate) fn new<L>(layer: L) -> Self
    where
        L: Layer<Bare, Service: Http + 'static> + Send + Sync + 'static,
        L: Layer<Inner<Boxed>, Service: Http> + Layer<Inner<Prompt>, Service: Http>,
    {
        let service = layer.layer(Bare);
        let with_boxed = Layer::<Inner<Boxed>>::layer(&layer, service_fn(boxed));
        let with_prompt = Layer::<Inner<Prompt>>::layer(&layer, service_fn(prompt));
        Self {
            growth: Growth {
                boxed_future: with_boxed.future() - size_of::<Boxed>(),
                ready_future: with_prompt.future() - size_of::<Prompt>(),
                body: service.body() - size_of::<Full<Bytes>>(),
            },
            service: Box::new(TowerToHyperService::new(service)),
            _layer: Box::new(layer),
        }
    }

    /// One request, start to end, as hyper-util calls a tower service: a clone, ready, a call.
    #[inline]
    pub fn request(&self) {
        self.service.request();
    }

    /// Sets what a thread or a stack sets up at its first request.
    pub fn warm_up(&self) {
        for _ in 0..100 {
            self.request();
        }
    }
}

trait Served: Send + Sync {
    fn request(&self);
}

impl<S: Http> Served for TowerToHyperService<S> {
    fn request(&self) {
        S::request(self);
    }
}

/// What a layer makes of a service of this package.
pub(crate) trait Http: Send + Sync + Sized {
    fn request(served: &TowerToHyperService<Self>);

    /// The size of the response future.
    fn future(&self) -> usize;

    /// The size of the response body.
    fn body(&self) -> usize;
}

impl<S, B> Http for S
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync,
    B: Body<Data = Bytes>,
{
    #[inline]
    fn request(served: &TowerToHyperService<S>) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut future = pin!(served.call(Request::new(Full::default())));
        let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
            unreachable!("none of the stacks fails or makes wait");
        };
        let mut body = pin!(response.into_body());
        while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx) {
            black_box(frame.is_data());
        }
    }

    fn future(&self) -> usize {
        size_of::<S::Future>()
    }

    fn body(&self) -> usize {
        size_of::<B>()
    }
}

/// What every stack wraps: answers at once, with a body of one frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bare;

impl Service<Request<Full<Bytes>>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Answer;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<Full<Bytes>>) -> Answer {
        black_box(&request);
        Answer
    }
}

pub(crate) struct Answer;

impl Future for Answer {
    type Output = Outcome;

    // As in an application: what makes the response is not inlined into the layer.
    #[inline(never)]
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Outcome> {
        Poll::Ready(Ok(Response::new(Full::new(Bytes::from_static(b"hello")))))
    }
}

type Outcome = Result<Response<Full<Bytes>>, Infallible>;
type Boxed = Pin<Box<dyn Future<Output = Outcome> + Send>>;
type Prompt = Ready<Outcome>;

/// A service with a future of that kind.
type Inner<F> = ServiceFn<fn(Request<Full<Bytes>>) -> F>;

fn boxed(request: Request<Full<Bytes>>) -> Boxed {
    Box::pin(prompt(request))
}

fn prompt(_: Request<Full<Bytes>>) -> Prompt {
    ready(Ok(Response::new(Full::default())))
}
