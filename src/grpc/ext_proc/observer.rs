//! What one call used, as far as it was seen.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpBody, HttpHeaders, ProcessingRequest};

use super::super::setup::{Setup, reservation, text_in};
use crate::service::{Observed, Service, Source, used_nothing};
use crate::usage::{End, Found, Reader, Reported, ResponseHead, SoFar};

/// How many tokens of an answer come between two reports of what was used so far.
const PROGRESS: u64 = 1000;

/// How many bytes of text make a token, about, where nobody has counted yet.
const BYTES_PER_TOKEN: u64 = 4;

/// The attribute that says where a response came from.
const CODE_DETAILS: &str = "response.code_details";

/// What a message told.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    /// Nothing to do.
    Nothing,
    /// So much was used by now.
    SoFar(Reported),
    /// The answer is complete.
    End,
}

/// Follows one call. Keeps what it has to report by, and a reader of bounded size.
#[derive(Debug)]
pub(super) struct Observer {
    setup: Setup,
    id: Option<String>,
    request_id: Option<String>,
    /// The request's headers that descriptors are made of.
    headers: BTreeMap<String, String>,
    answer: Option<Answer>,
}

/// An answer that began.
#[derive(Debug)]
struct Answer {
    /// Whether nothing can have been used, unless the body says otherwise.
    without_use: bool,
    reader: Reader,
    /// How many tokens of it were reported so far.
    told: u64,
    /// Whether all of it was seen.
    complete: bool,
}

impl Observer {
    pub(super) const fn new(setup: Setup) -> Self {
        Self {
            setup,
            id: None,
            request_id: None,
            headers: BTreeMap::new(),
            answer: None,
        }
    }

    /// The reservation of the call, once it is known.
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The domain that the stream names.
    pub(super) fn domain(&self) -> Option<&str> {
        self.setup.domain.as_deref()
    }

    /// Takes a look at a message.
    pub(super) fn see(&mut self, message: &ProcessingRequest) -> Seen {
        let id = message.metadata_context.as_ref().and_then(reservation);
        if id.is_some() && id != self.id() {
            self.id = id.map(ToOwned::to_owned);
        }
        match &message.request {
            Some(Request::RequestHeaders(headers)) => {
                self.see_request(headers);
                Seen::Nothing
            }
            Some(Request::ResponseHeaders(headers)) => {
                let mut attributes = message.attributes.values();
                let details = attributes.find_map(|attributes| text_in(attributes, CODE_DETAILS));
                self.see_head(headers, details);
                self.end_if(headers.end_of_stream)
            }
            Some(Request::ResponseBody(body)) => self.see_body(body),
            Some(Request::ResponseTrailers(_)) => self.end_if(true),
            Some(Request::RequestBody(_) | Request::RequestTrailers(_)) | None => Seen::Nothing,
        }
    }

    fn see_request(&mut self, headers: &HttpHeaders) {
        self.request_id = header(headers.headers.as_ref(), "x-request-id");
        for known in headers.headers.iter().flat_map(|map| &map.headers) {
            // Of several, the first; Envoy's own descriptors would join them, which nobody wants.
            if self.setup.names(&known.key) && !self.headers.contains_key(&known.key) {
                self.headers.insert(known.key.clone(), text(known));
            }
        }
    }

    fn see_head(&mut self, headers: &HttpHeaders, details: Option<&str>) {
        let headers = headers.headers.as_ref();
        let status = header(headers, ":status").and_then(|status| status.parse().ok());
        let content_type = header(headers, "content-type");
        let content_encoding = header(headers, "content-encoding");
        self.answer = Some(Answer {
            without_use: used_nothing(status.unwrap_or_default(), details.unwrap_or_default()),
            reader: Reader::new(&ResponseHead {
                content_type: content_type.as_deref(),
                content_encoding: content_encoding.as_deref(),
            }),
            told: 0,
            complete: false,
        });
    }

    fn see_body(&mut self, body: &HttpBody) -> Seen {
        let Some(answer) = &mut self.answer else {
            return Seen::Nothing;
        };
        answer.reader.feed(&body.body);
        if body.end_of_stream {
            return self.end_if(true);
        }
        let so_far = answer.reader.so_far();
        let output = written(&so_far);
        if output < answer.told.saturating_add(PROGRESS) {
            return Seen::Nothing;
        }
        answer.told = output;
        Seen::SoFar(used(&so_far, output))
    }

    fn end_if(&mut self, ended: bool) -> Seen {
        match &mut self.answer {
            Some(answer) if ended => {
                answer.complete = true;
                Seen::End
            }
            _ => Seen::Nothing,
        }
    }

    /// Reports what was found. Of a call that was cut off, that is what was found by then.
    pub(super) async fn report(self, service: &Service) {
        let descriptors = self
            .setup
            .descriptors(|name| self.headers.get(name).map(String::as_str));
        // A request that was refused, or that nobody limits.
        if self.id.is_none() && descriptors.is_empty() {
            return;
        }
        let usage = match self.answer.map(Answer::found) {
            Some(Ok(usage)) => usage,
            Some(Err("bad_count")) => {
                let problem = "the provider's answer has a count that cannot be";
                service.refuse_observation(Source::ExtProc, "bad_count", &problem);
                return;
            }
            Some(Err(reason)) => {
                service.observation_without_usage(Source::ExtProc, reason);
                Reported::default()
            }
            None => {
                service.observation_without_usage(Source::ExtProc, "no_answer");
                Reported::default()
            }
        };
        let observed = Observed {
            source: Source::ExtProc,
            domain: self.setup.domain.as_deref(),
            id: self.id.as_deref(),
            request_id: self.request_id.as_deref(),
            descriptors,
            // What was written is counted here.
            outcome: None,
            usage,
        };
        service.observed(observed).await;
    }
}

impl Answer {
    /// What was used, or why nobody knows.
    fn found(self) -> Result<Reported, &'static str> {
        let found = self.reader.finish();
        let Found { so_far, end } = found;
        match found.missing() {
            // The provider said its last word, whatever became of the stream after it.
            None if end == End::Whole => {
                let measures = so_far.usage.unwrap_or_default();
                Ok(Reported::of_measures(measures.map(Some)))
            }
            // What was written is paid for, also where its count would have come at the end.
            None => Ok(used(&so_far, written(&so_far))),
            Some("bad_count") => Err("bad_count"),
            Some(_) if self.without_use => Ok(Reported::of_measures([Some(0); 4])),
            Some("no_usage") if !self.complete => Err(End::CutShort.name()),
            Some(reason) => Err(reason),
        }
    }
}

/// How many tokens the answer has by now: as the provider counted them, or by the bytes of its
/// text where that is more.
fn written(so_far: &SoFar) -> u64 {
    let counted = so_far.usage.map_or(0, |[_, _, _, output]| output);
    counted.max(so_far.text_bytes / BYTES_PER_TOKEN)
}

fn used(so_far: &SoFar, output: u64) -> Reported {
    let [input, read, write, _] = so_far
        .usage
        .map_or([None; 4], |measures| measures.map(Some));
    Reported::of_measures([input, read, write, Some(output)])
}

fn header(headers: Option<&HeaderMap>, name: &str) -> Option<String> {
    let mut headers = headers?.headers.iter();
    headers.find(|header| header.key == name).map(text)
}

/// Envoy sends values as bytes, and used to send them as text.
fn text(header: &HeaderValue) -> String {
    if header.raw_value.is_empty() {
        header.value.clone()
    } else {
        String::from_utf8_lossy(&header.raw_value).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataMap;

    use super::*;

    /// Shows a piece of a body and tells what was seen.
    fn see(observer: &mut Observer, piece: &str) -> Seen {
        let body = HttpBody {
            body: piece.as_bytes().to_vec(),
            ..HttpBody::default()
        };
        observer.see(&ProcessingRequest {
            request: Some(Request::ResponseBody(body)),
            ..ProcessingRequest::default()
        })
    }

    fn observer() -> Observer {
        let mut observer = Observer::new(Setup::of(&MetadataMap::new()).unwrap());
        let head = ProcessingRequest {
            request: Some(Request::ResponseHeaders(HttpHeaders::default())),
            ..ProcessingRequest::default()
        };
        assert_eq!(observer.see(&head), Seen::Nothing);
        observer
    }

    fn text(bytes: usize) -> String {
        let text = "x".repeat(bytes);
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    }

    #[test]
    fn what_was_used_so_far_is_told_every_thousand_tokens() {
        let mut observer = observer();
        let output = |tokens| Seen::SoFar(Reported::of_measures([None, None, None, Some(tokens)]));
        assert_eq!(see(&mut observer, &text(3999)), Seen::Nothing);
        assert_eq!(see(&mut observer, &text(1)), output(1000));
        assert_eq!(see(&mut observer, &text(3999)), Seen::Nothing);
        assert_eq!(see(&mut observer, &text(4001)), output(3000));
    }

    #[test]
    fn what_the_provider_counts_as_it_goes_is_told_with_it() {
        let mut observer = observer();
        let usage = |output: u64| {
            format!(
                "data: {{\"usageMetadata\":{{\"promptTokenCount\":50,\"candidatesTokenCount\":{output}}}}}\n\n"
            )
        };
        assert_eq!(see(&mut observer, &usage(999)), Seen::Nothing);
        let measures = [Some(50), Some(0), Some(0), Some(1000)];
        let told = Seen::SoFar(Reported::of_measures(measures));
        assert_eq!(see(&mut observer, &usage(1000)), told);
    }

    #[test]
    fn a_body_without_a_head_is_nobodys() {
        let mut observer = Observer::new(Setup::of(&MetadataMap::new()).unwrap());
        assert_eq!(see(&mut observer, &text(8000)), Seen::Nothing);
    }
}
