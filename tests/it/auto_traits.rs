//! Auto-traits are part of an API: what moves between threads today must do so tomorrow.

use http_body_util::Full;
use static_assertions::{assert_impl_all, assert_not_impl_any};
use std::{
    fmt::Debug,
    future::Ready,
    panic::{RefUnwindSafe, UnwindSafe},
};
use tower_graceful::{
    body::ResponseBody,
    call,
    future::{Reached, ResponseFuture},
    guard::{DrainGuard, Tracked},
    probe::{Liveness, ProbeBody, Readiness, Status},
    report::{Blocker, Counts, Report},
    stream::{EndBody, EndStream},
    *,
};

type Body = Full<bytes::Bytes>;

assert_impl_all!(Drain: Send, Sync, Unpin, Clone, Debug, Default);
assert_impl_all!(DrainBuilder: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe, Clone, Debug, Default);
assert_impl_all!(DrainGuard: Send, Sync, Unpin, Clone, Debug);
assert_impl_all!(Tracked<Ready<()>>: Send, Sync, Unpin, Debug);
assert_impl_all!(Reached: Send, Sync, Unpin, Debug);
assert_impl_all!(Phase: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe, Copy, Ord, std::hash::Hash, Debug);
assert_impl_all!(Drained: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe, Clone, Eq, Debug);
assert_impl_all!(DrainTimeout: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe, std::error::Error);
assert_impl_all!(Counts: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe, Clone, Eq, Debug, Default);
assert_impl_all!(Refused: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe, std::error::Error);
assert_impl_all!(RunError<std::io::Error>: Send, Sync, Unpin, std::error::Error);
assert_impl_all!(GracefulLayer: Send, Sync, Unpin, Clone, Debug);
assert_impl_all!(call::GracefulLayer: Send, Sync, Unpin, Clone, Debug);
assert_impl_all!(Graceful<()>: Send, Sync, Unpin, Clone, Debug);
assert_impl_all!(ResponseFuture<Ready<()>, Body>: Send, Sync, Unpin, Debug);
assert_impl_all!(call::CallFuture<Ready<()>>: Send, Sync, Unpin, Debug);
assert_impl_all!(ResponseBody<Body>: Send, Sync, Unpin, Debug, Default);
assert_impl_all!(Report: Send, Sync, Unpin, UnwindSafe, RefUnwindSafe, Clone, Eq, Debug);
assert_impl_all!(Blocker: Send, Sync, Unpin, Clone, Eq, Debug);
assert_impl_all!(Liveness: Send, Sync, Unpin, Clone, Debug);
assert_impl_all!(Status: Send, Sync, Unpin, Clone, Debug);
assert_impl_all!(EndStream<futures_util::stream::Empty<()>>: Send, Sync, Unpin, Debug);
assert_impl_all!(EndBody<Body>: Send, Sync, Unpin, Debug);
assert_impl_all!(Readiness: Send, Sync, Unpin, Clone, Debug);
assert_impl_all!(ProbeBody: Send, Sync, Unpin, Debug);
assert_impl_all!(refusal::Unavailable: Send, Sync, Unpin, Copy, Debug, Default);
assert_impl_all!(refusal::NoExemptions: Send, Sync, Unpin, Copy, Debug, Default);
#[cfg(feature = "signal")]
assert_impl_all!(signal::Terminate: Send, Sync, Unpin, Debug);
assert_impl_all!(signal::SecondSignal: Send, Sync, Unpin, Debug);

// What is inside follows.
assert_not_impl_any!(Graceful<std::rc::Rc<()>>: Send, Sync);
assert_not_impl_any!(ResponseFuture<std::marker::PhantomPinned, Body>: Unpin);
assert_not_impl_any!(ResponseBody<std::marker::PhantomPinned>: Unpin);
assert_not_impl_any!(ResponseBody<std::rc::Rc<()>>: Send, Sync);

#[test]
fn futures_of_a_drain_are_send_and_static() {
    fn check<T: Send + 'static>(_: T) {}
    let drain = Drain::new();
    check(drain.wait());
    check(drain.shutdown(std::time::Duration::ZERO));
    check(drain.run(std::future::ready(()), std::future::ready(())));
    #[cfg(feature = "signal")]
    check(drain.run(std::future::ready(()), tokio::signal::ctrl_c()));
}

/// The state that a request carries: at most two words more in its future, two in its body.
#[test]
fn futures_and_bodies_stay_small() {
    use std::{future::Future, mem::size_of, pin::Pin};

    type Response = Result<http::Response<Body>, std::convert::Infallible>;
    type Boxed = Pin<Box<dyn Future<Output = Response> + Send>>;
    assert!(size_of::<ResponseFuture<Boxed, Body>>() <= size_of::<Boxed>() + 16);
    assert!(
        size_of::<ResponseFuture<Ready<Response>, Body>>() <= size_of::<Ready<Response>>() + 16
    );
    assert!(size_of::<ResponseBody<Body>>() <= size_of::<Body>() + 16);
    // A body that is never all zeros, like the boxes of axum and tonic, has room for the empty one.
    type BoxBody = http_body_util::combinators::BoxBody<bytes::Bytes, std::convert::Infallible>;
    assert!(size_of::<ResponseBody<BoxBody>>() <= size_of::<BoxBody>() + 8);
}
