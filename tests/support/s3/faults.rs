//! What goes wrong between a server and its service.

use std::error::Error;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use s3s::Body;
use s3s::service::S3Service;

use super::State;

type BoxError = Box<dyn Error + Send + Sync>;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// The request is accepted and never answered.
    Hang,
    /// It is answered with this status.
    Status(u16),
    /// The connection ends after this many bytes of the answer's body.
    Truncate(usize),
    /// The answer's body stops after this many bytes, and the connection stays.
    Stop(usize),
    /// The connection ends after this many bytes of the request's body.
    Cut(usize),
    /// Each piece of either body takes this long.
    Slow(Duration),
    /// A PUT is answered as if it had succeeded, and nothing is kept.
    Forget,
}

/// Answers a request as the test has set it.
pub(super) async fn answer(
    service: &S3Service,
    state: &State,
    request: Request<Incoming>,
) -> Result<Response<Body>, BoxError> {
    let fault = state.take(request.method(), request.uri().path());
    let pass =
        async |request: Request<Body>| service.call(request).await.map_err(|_| BoxError::from("the service failed"));
    match fault {
        Fault::None => pass(request.map(Body::from)).await,
        Fault::Hang => std::future::pending().await,
        Fault::Status(status) => {
            let text = "<Error><Code>InternalError</Code><Message>as the test has set it</Message></Error>";
            Ok(Response::builder().status(status).body(Body::from(text.to_owned()))?)
        }
        Fault::Truncate(most) => {
            let end = stream::once(async { Err(BoxError::from("the connection ends here")) });
            Ok(pass(request.map(Body::from)).await?.map(|body| limited(body, most, end)))
        }
        Fault::Stop(most) => {
            Ok(pass(request.map(Body::from)).await?.map(|body| limited(body, most, stream::pending())))
        }
        Fault::Cut(most) => {
            let mut body = request.into_body();
            let mut read = 0;
            while read < most
                && let Some(frame) = body.frame().await
            {
                read += frame?.data_ref().map_or(0, Bytes::len);
            }
            Err("the connection ends here".into())
        }
        Fault::Slow(pause) => {
            // The service takes no body of unknown length with a GET.
            let has_body = request.method() == Method::PUT;
            let request = request.map(|body| if has_body { slow(Body::from(body), pause) } else { Body::from(body) });
            Ok(pass(request).await?.map(|body| slow(body, pause)))
        }
        Fault::Forget => {
            request.into_body().collect().await?;
            Ok(Response::new(Body::empty()))
        }
    }
}

/// The beginning of a body, and then something else.
fn limited(
    body: Body,
    most: usize,
    end: impl futures_util::Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Body {
    let beginning = body.scan(most, |left, piece| {
        let piece = piece.map(|piece: Bytes| piece.slice(..piece.len().min(*left)));
        *left -= piece.as_ref().map_or(0, Bytes::len);
        std::future::ready(piece.as_ref().is_ok_and(|piece| !piece.is_empty()).then_some(piece))
    });
    Body::http_body_unsync(StreamBody::new(beginning.chain(end).map_ok(Frame::data)))
}

fn slow(body: Body, pause: Duration) -> Body {
    let frames = body.and_then(move |piece| async move {
        tokio::time::sleep(pause).await;
        Ok(Frame::data(piece))
    });
    Body::http_body_unsync(StreamBody::new(frames))
}
