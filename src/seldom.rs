//! What is nearly never there, but has its place in every service and future.

use crate::drain::contained;

/// An `Option` that costs a branch where it is `None`: what drops the other case stands apart and
/// does not unwind, so that those who hold one are not laid out for it.
pub(crate) struct Seldom<T>(Option<T>);

impl<T> Seldom<T> {
    pub(crate) const NONE: Self = Self(None);

    #[inline]
    pub(crate) fn some(value: T) -> Self {
        Self(Some(value))
    }

    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn take(&mut self) -> Option<T> {
        self.0.take()
    }

    pub(crate) fn get_or_insert_with(&mut self, make: impl FnOnce() -> T) -> &mut T {
        self.0.get_or_insert_with(make)
    }
}

impl<T> Drop for Seldom<T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            contained(move || drop(value));
        }
    }
}
