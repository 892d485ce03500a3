//! The one place that turns a failure into an answer: a status and `{"error": "one sentence"}`.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use protocol::EventError;

use super::body::Answer;
use crate::broker::BrokerError;
use crate::hub::HistoryError;

/// A request that cannot be answered as asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{sentence}")]
pub struct Failure {
    /// The answer's status.
    pub status: StatusCode,
    /// What is wrong and what to do, for whoever sent the request.
    pub sentence: String,
    /// A header that belongs to the status.
    pub header: Option<(HeaderName, HeaderValue)>,
}

impl Failure {
    /// A failure with nothing but a status and a sentence.
    #[must_use]
    pub fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self {
            status,
            sentence: sentence.into(),
            header: None,
        }
    }

    /// 400: the request itself is wrong.
    #[must_use]
    pub fn bad(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, sentence)
    }

    /// 404: there is nothing at this path.
    #[must_use]
    pub fn not_found(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, sentence)
    }

    /// 405, with the methods that work.
    #[must_use]
    pub fn method(allow: &'static str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("this path answers {allow} only"),
        )
        .with(header::ALLOW, HeaderValue::from_static(allow))
    }

    /// 413: over a limit in bytes.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        let sentence = format!("the request body is over the limit for events of {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, sentence)
    }

    /// 429: too often; the client may try again after this time (RFC 6585, section 4).
    #[must_use]
    pub fn too_often(setting: &str, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            format!("this is more often than {setting} allows: try again in {seconds} s"),
        )
        .with(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    /// 503: not now.
    #[must_use]
    pub fn away(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, sentence)
            .with(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// Adds the header that belongs to the status.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    /// The answer.
    #[must_use]
    pub fn into_response(self) -> Response<Answer> {
        let body = serde_json::json!({ "error": self.sentence });
        let mut response = json(self.status, &body);
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// An answer in JSON, which nobody keeps.
#[must_use]
pub fn json(status: StatusCode, body: &serde_json::Value) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

impl From<EventError> for Failure {
    fn from(error: EventError) -> Self {
        let status = match error {
            EventError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Away(reason) => Self::away(format!(
                "the event was not confirmed, because the broker cannot serve now ({reason}): send it again with the same Idempotency-Key"
            )),
            BrokerError::Refused(sentence) => Self::bad(sentence),
            BrokerError::WrongType => Self::new(StatusCode::CONFLICT, error.to_string()),
        }
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Away(_) => Self::away(format!("{error}: try again later")),
            HistoryError::WrongType => Self::new(StatusCode::CONFLICT, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_say_whose_fault_they_are() {
        for (failure, status) in [
            (Failure::from(EventError::Reserved), 400),
            (
                Failure::from(EventError::TooLarge {
                    actual: 9,
                    limit: 8,
                }),
                413,
            ),
            (Failure::from(BrokerError::Away("no route".into())), 503),
            (Failure::from(BrokerError::WrongType), 409),
            (Failure::from(HistoryError::Away("no route".into())), 503),
        ] {
            assert_eq!(failure.into_response().status().as_u16(), status);
        }
        let response = Failure::method("GET, HEAD").into_response();
        assert_eq!(response.headers()[header::ALLOW], "GET, HEAD");
    }
}
