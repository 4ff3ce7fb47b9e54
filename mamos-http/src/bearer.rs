//! The bearer token of a request.

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use mamos_core::auth::Secret;

use crate::problem::Problem;

/// Before the token in the list of subprotocols.
const SUBPROTOCOL: &str = "mamos.bearer.";

/// The token in the `Authorization` header, or, when a WebSocket is opened, in the subprotocol
/// `mamos.bearer.<token>`: browsers cannot set headers there, and an address with a token in it would
/// be logged along the way. The server answers with the other subprotocol, `mamos.v1`, so that it repeats no
/// token.
///
/// # Source
///
/// Kubernetes takes `base64url.bearer.authorization.k8s.io.<token>` in the same place.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<Secret>, Problem> {
    let malformed =
        || Problem::unauthenticated("there must be one Authorization header, of the form: Bearer <token>");
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(subprotocol(headers)) };
    let text = value.to_str().ok().filter(|_| values.next().is_none()).ok_or_else(malformed)?;
    let (scheme, token) = text.split_once(' ').ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return Err(malformed());
    }
    Ok(Some(Secret::new(token.trim())))
}

fn subprotocol(headers: &HeaderMap) -> Option<Secret> {
    let is_websocket = headers.get(UPGRADE)?.as_bytes().eq_ignore_ascii_case(b"websocket");
    let lists = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    let mut offered = lists.flat_map(|list| list.split(',')).map(str::trim);
    let token = offered.find_map(|protocol| protocol.strip_prefix(SUBPROTOCOL))?;
    (is_websocket && !token.is_empty()).then(|| Secret::new(token))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_token_is_taken_from_the_header_or_from_the_subprotocols_of_a_websocket() {
        let shown = |pairs: &[_]| bearer(&headers(pairs)).unwrap().map(|token| token.expose().to_owned());
        assert_eq!(shown(&[("authorization", "bearer  abc ")]).as_deref(), Some("abc"));
        let protocols = ("sec-websocket-protocol", "mamos.v1, mamos.bearer.x.y-z");
        assert_eq!(shown(&[("upgrade", "WebSocket"), protocols]).as_deref(), Some("x.y-z"));
        assert_eq!(shown(&[protocols]), None, "only when a WebSocket is opened");
        assert_eq!(shown(&[]), None);
        for wrong in ["abc", "Basic abc", "Bearer  "] {
            assert_eq!(bearer(&headers(&[("authorization", wrong)])).unwrap_err().status, 401);
        }
        let mut twice = headers(&[("authorization", "Bearer abc")]);
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer def"));
        assert_eq!(bearer(&twice).unwrap_err().status, 401);
    }
}
