//! A range of an object on its way in: piece by piece, and on from where an attempt broke.

use std::ops::Range;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, Either};
use tokio::time::{Instant, timeout};

use super::failure::{Failure, Subject};
use super::hedge::race;
use super::pace::Turn;
use super::retry::{Came, Patience};
use super::{ETag, S3Store, Shared, is_strong, length};
use crate::error::Result;

/// Takes the bytes as they come, each once and in order, and how many are still to come.
pub(super) type Sink<'s> = &'s mut (dyn FnMut(Bytes, u64) + Send);

/// A range that is being read.
pub(super) struct Download<'a> {
    store: &'a S3Store,
    subject: Subject<'a>,
    /// What is still to come; it may reach behind the object's end until that is known.
    missing: Range<u64>,
    /// The version that is read: the one asked for, or that of the first answer.
    pin: Option<ETag>,
    /// The object's length, once it was told.
    total: Option<u64>,
}

impl<'a> Download<'a> {
    pub(super) fn new(
        store: &'a S3Store,
        subject: Subject<'a>,
        range: Range<u64>,
        pin: Option<ETag>,
    ) -> Self {
        Self { store, subject, missing: range, pin, total: None }
    }

    /// Reads until everything has gone to `sink`.
    pub(super) async fn run(mut self, sink: Sink<'_>) -> Result<()> {
        let limits = self.store.limits();
        let mut patience = Patience::new(&limits, self.subject.name());
        loop {
            let before = self.missing.start;
            let came = patience.came();
            let outcome = patience.attempt(self.attempt(sink, &came)).await;
            let Err(failure) = outcome else { return Ok(()) };
            if self.missing.start > before {
                patience.forget_attempts();
            }
            self.store.recover(&mut patience, failure).await?;
        }
    }

    async fn attempt(&mut self, sink: Sink<'_>, came: &Came) -> Result<(), Failure> {
        let Shared { usual, metrics, .. } = &*self.store.shared;
        let mut flow = self.flow(self.store.turn().await);
        let first_late = self.store.late_after(&usual.first_byte);
        // A second request brings nothing before its first byte.
        let next_late =
            first_late.and_then(|first| Some(usual.next_bytes.late_after()?.max(first)));
        let mut late_after = first_late;
        let mut first = true;
        while !self.missing.is_empty() {
            let since = Instant::now();
            let second = || {
                let mut second = self.flow(self.store.second_turn()?);
                Some(async move { second.next().await.map(|piece| (second, piece)) })
            };
            let piece = match race(flow.next(), late_after, second).await? {
                Either::Left(piece) => piece,
                Either::Right((second, piece)) => {
                    flow = second;
                    piece
                }
            };
            if first {
                usual.first_byte.note(since.elapsed());
                metrics.first_byte.note(since.elapsed());
            } else {
                usual.next_bytes.note(since.elapsed());
            }
            (first, late_after) = (false, next_late);
            self.accept(&flow)?;
            let len = piece.len() as u64;
            self.missing.start += len;
            metrics.bytes_fetched.add(len);
            came.add(len);
            sink(piece, self.missing.end - self.missing.start);
        }
        Ok(())
    }

    /// Sends a request for what is missing.
    fn flow(&self, turn: Turn) -> Flow<'a> {
        let Self { store, subject, missing, pin, .. } = self;
        let (store, subject) = (*store, *subject);
        let strong = pin.as_ref().filter(|etag| is_strong(etag)).map(|etag| etag.0.clone());
        let request = store
            .client()
            .get_object()
            .bucket(store.bucket())
            .set_key(subject.key.map(str::to_owned))
            .set_version_id(store.version.as_deref().map(str::to_owned))
            .range(range_header(missing))
            .set_if_match(strong);
        let sent = async move {
            let answer = async {
                match request.send().await {
                    Ok(output) => Ok(Head::Bytes(Box::new(output))),
                    Err(error) => behind(&error).ok_or(error),
                }
            };
            subject.answer(answer, store.shared.limits.stall).await
        };
        Flow {
            store,
            subject,
            turn,
            asked: missing.clone(),
            state: State::Sent(Box::pin(sent)),
            etag: None,
            total: 0,
        }
    }

    /// Checks that a flow that brought bytes brings those of the object that is being read.
    fn accept(&mut self, flow: &Flow<'_>) -> Result<(), Failure> {
        match (&self.pin, &flow.etag) {
            (Some(pin), Some(etag)) if is_strong(pin) && pin != etag => {
                return Err(self.subject.changed());
            }
            (None, Some(etag)) => self.pin = Some(etag.clone()),
            _ => {}
        }
        if *self.total.get_or_insert(flow.total) != flow.total {
            return Err(self.subject.changed());
        }
        self.missing.end = self.missing.end.min(flow.total).max(self.missing.start);
        Ok(())
    }
}

/// Collects what goes to a [`Sink`]; the bytes of a single piece aren't copied.
#[derive(Default)]
pub(super) struct Collected {
    whole: Bytes,
    grown: BytesMut,
}

impl Collected {
    pub(super) fn add(&mut self, piece: Bytes, to_come: u64) {
        if self.grown.is_empty() {
            if to_come == 0 {
                self.whole = piece;
                return;
            }
            self.grown.reserve(piece.len() + usize::try_from(to_come).unwrap_or(0));
        }
        self.grown.extend_from_slice(&piece);
    }

    pub(super) fn bytes(self) -> Bytes {
        if self.grown.is_empty() { self.whole } else { self.grown.freeze() }
    }
}

/// One request, from when it is sent to the last byte of its answer.
struct Flow<'a> {
    store: &'a S3Store,
    subject: Subject<'a>,
    /// Its place among the requests in flight.
    turn: Turn,
    asked: Range<u64>,
    state: State<'a>,
    /// The version that the answer named.
    etag: Option<ETag>,
    /// The object's length that the answer told.
    total: u64,
}

enum State<'a> {
    Sent(BoxFuture<'a, Result<Head, Failure>>),
    Body { stream: ByteStream, missing: u64, only_range: bool },
}

/// What an answer begins with.
enum Head {
    Bytes(Box<GetObjectOutput>),
    /// There is nothing so far behind the end; maybe the object's length was told.
    Behind(Option<u64>),
}

impl Flow<'_> {
    /// The next bytes; none where the object ends. It can be given up and called again.
    async fn next(&mut self) -> Result<Bytes, Failure> {
        if let State::Sent(sent) = &mut self.state {
            let head = self.store.learn(&self.turn, sent.await)?;
            self.state = self.open(head)?;
        }
        let State::Body { stream, missing, only_range } = &mut self.state else {
            return Ok(Bytes::new());
        };
        if *missing == 0 {
            return Ok(Bytes::new());
        }
        let stall = self.store.shared.limits.stall;
        let mut piece = match timeout(stall, stream.next()).await {
            Ok(Some(Ok(piece))) => {
                self.store.shared.client.hear();
                piece
            }
            Ok(Some(Err(error))) => return Err(self.subject.broken(error)),
            Ok(None) => return Err(self.subject.broken(format!("{missing} bytes are missing"))),
            Err(_) => return Err(self.subject.stalled()),
        };
        let wanted = usize::try_from(*missing).unwrap_or(usize::MAX);
        if piece.len() > wanted && *only_range {
            return Err(self.subject.broken("it holds more than it says"));
        }
        piece.truncate(wanted);
        *missing -= piece.len() as u64;
        Ok(piece)
    }

    /// The head of the answer is there: what its body has to be.
    fn open<'b>(&mut self, head: Head) -> Result<State<'b>, Failure> {
        let mut output = match head {
            Head::Bytes(output) => output,
            Head::Behind(total) if total.is_none_or(|total| total <= self.asked.start) => {
                self.total = total.unwrap_or(self.asked.start);
                return Ok(State::Body {
                    stream: ByteStream::default(),
                    missing: 0,
                    only_range: true,
                });
            }
            Head::Behind(_) => return Err(self.subject.broken("it denies a range that is there")),
        };
        self.store.note_number(&*output);
        self.etag = output.e_tag.take().map(ETag);
        let only_range = output.content_range.is_some();
        let told = match (&output.content_range, output.content_length) {
            (Some(text), len) => content_range(text).filter(|(body, total)| {
                let asked = self.asked.start..self.asked.end.min(*total);
                *body == asked && len.is_none_or(|len| length(Some(len)) == body.end - body.start)
            }),
            // A server that knows no ranges sends everything, which is as good at the start.
            (None, Some(len)) if self.asked.start == 0 => {
                let total = length(Some(len));
                Some((0..self.asked.end.min(total), total))
            }
            (None, _) => None,
        };
        let Some((body, total)) = told else {
            let told = output.content_range.as_deref().unwrap_or("no range");
            let len = output.content_length.unwrap_or(-1);
            return Err(self.subject.broken(format!("it holds {told} in {len} bytes")));
        };
        self.total = total;
        Ok(State::Body { stream: output.body, missing: body.end - body.start, only_range })
    }
}

/// What it means that a range was refused (RFC 9110, section 15.5.17).
fn behind<E>(error: &SdkError<E, HttpResponse>) -> Option<Head> {
    let response = error.raw_response().filter(|response| response.status().as_u16() == 416)?;
    let total = response.headers().get("content-range");
    Some(Head::Behind(total.and_then(|text| text.strip_prefix("bytes */")?.parse().ok())))
}

/// The bytes of a range, without an end where servers couldn't parse it.
fn range_header(range: &Range<u64>) -> String {
    let Range { start, end } = range;
    if i64::try_from(*end).is_ok() {
        format!("bytes={start}-{}", end - 1)
    } else {
        format!("bytes={start}-")
    }
}

/// The range and the object's length from `bytes 0-99/1234`.
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let body = first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?;
    (body.start < body.end).then_some((body, total.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read() {
        assert_eq!(content_range("bytes 5-9/20"), Some((5..10, 20)));
        assert_eq!(content_range("bytes 0-0/1"), Some((0..1, 1)));
        for text in ["bytes */20", "items 0-1/2", "bytes 5-4/9", "bytes 0-18446744073709551615/1"] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }

    #[test]
    fn a_range_without_end_asks_for_the_rest() {
        assert_eq!(range_header(&(5..10)), "bytes=5-9");
        assert_eq!(range_header(&(5..u64::MAX)), "bytes=5-");
    }

    #[test]
    fn pieces_are_collected_in_one_buffer() {
        let mut collected = Collected::default();
        let piece = Bytes::from("whole");
        collected.add(piece.clone(), 0);
        assert_eq!(collected.bytes().as_ptr(), piece.as_ptr());
        let mut collected = Collected::default();
        for (piece, to_come) in [("ab", 4), ("cd", 2), ("", 2), ("ef", 0)] {
            collected.add(Bytes::from(piece), to_come);
        }
        assert_eq!(collected.bytes(), "abcdef");
    }
}
