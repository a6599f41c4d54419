//! `Connection: close`, where HTTP has it.

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header::CONNECTION,
    response::Parts,
};

/// Says whether a response can announce that its connection closes after it, by the version and the
/// method of its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closing {
    version: Version,
    is_connect: bool,
}

impl Closing {
    /// Announces nothing: HTTP/2 and later do not have the header ([RFC 9113
    /// 8.2.2](https://www.rfc-editor.org/rfc/rfc9113#section-8.2.2)).
    pub(crate) const NEVER: Self = Self {
        version: Version::HTTP_2,
        is_connect: false,
    };

    #[inline]
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self {
            version: request.version(),
            is_connect: *request.method() == Method::CONNECT,
        }
    }

    /// Returns the version of the request.
    pub(crate) fn version(self) -> Version {
        self.version
    }

    /// Adds the header to a response, where it is allowed and missing.
    #[cold]
    pub(crate) fn put_on(self, head: &mut Parts) {
        if self.fits(head.status) {
            close(&mut head.headers);
            self.set_version(&mut head.version);
        }
    }

    /// Adds the header to a response as [`put_on`](Self::put_on) does.
    pub(crate) fn put_on_response<B>(self, response: Response<B>) -> Response<B> {
        let (mut head, body) = response.into_parts();
        self.put_on(&mut head);
        Response::from_parts(head, body)
    }

    /// Makes it an HTTP/1.0 response, if the request is. Of a response with a later version hyper
    /// assumes that the connection stays, and adds `keep-alive` beside the `close`.
    pub(crate) fn set_version(self, version: &mut Version) {
        if self.version < Version::HTTP_11 {
            *version = Version::HTTP_10;
        }
    }

    /// Returns whether a response with this status gets the header ([RFC 9112
    /// 9.6](https://www.rfc-editor.org/rfc/rfc9112#section-9.6)). A CONNECT that succeeds makes the
    /// connection a tunnel ([RFC 9110
    /// 9.3.6](https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6)).
    pub(crate) fn fits(self, status: StatusCode) -> bool {
        let is_final = self.version < Version::HTTP_11 || !status.is_informational();
        let is_tunnel = self.is_connect && status.is_success();
        self.version <= Version::HTTP_11 && is_final && !is_tunnel
    }
}

pub(crate) const CLOSE: HeaderValue = HeaderValue::from_static("close");

fn close(headers: &mut HeaderMap) {
    if !headers.contains_key(CONNECTION) {
        headers.insert(CONNECTION, CLOSE);
        return;
    }
    // The handler has set the header. Its other options stay (`upgrade` belongs to a 426), except
    // `keep-alive`, which contradicts. A value that is not text is dropped.
    let old: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    let options = |value: &HeaderValue| -> Vec<String> {
        let text = value.to_str().unwrap_or_default();
        text.split(',')
            .map(|option| option.trim().to_owned())
            .filter(|option| !option.is_empty())
            .collect()
    };
    let kept: Vec<String> = old
        .iter()
        .flat_map(options)
        .filter(|option| {
            !option.eq_ignore_ascii_case("keep-alive") && !option.eq_ignore_ascii_case("close")
        })
        .chain(["close".to_owned()])
        .collect();
    let value = HeaderValue::try_from(kept.join(", ")).unwrap_or(CLOSE);
    headers.insert(CONNECTION, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(old: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for value in old {
            headers.append(CONNECTION, HeaderValue::from_static(value));
        }
        close(&mut headers);
        headers
            .get_all(CONNECTION)
            .iter()
            .map(|value| value.to_str().expect("text").to_owned())
            .collect()
    }

    #[test]
    fn a13_close_is_said_once_and_does_not_contradict() {
        assert_eq!(closed(&[]), ["close"]);
        assert_eq!(closed(&["close"]), ["close"]);
        assert_eq!(closed(&["Close"]), ["close"]);
        assert_eq!(closed(&["keep-alive"]), ["close"]);
        assert_eq!(closed(&["Keep-Alive, upgrade"]), ["upgrade, close"]);
        assert_eq!(closed(&["upgrade", "close"]), ["upgrade, close"]);
        assert_eq!(closed(&["", ","]), ["close"]);
    }
}
