//! [`Queue`] on SQS.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::{
    Client,
    types::{
        BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
        Message as SdkMessage, MessageSystemAttributeName as MessageAttribute, QueueAttributeName as Attribute,
        SendMessageBatchRequestEntry,
    },
};

use super::error::{Target, kind_of_code};
use crate::cloud::{
    CloudError, ErrorKind, Queue, Result, limits,
    queue::{Message, Outgoing, QueueDepth, Receipt},
};

/// A queue of SQS.
pub(super) struct AwsQueue {
    pub client: Client,
    pub target: Target,
    pub url: String,
    pub visibility: Duration,
}

/// The action under which SQS allows each request, its batch form included.
const SEND: &str = "sqs:SendMessage";
const RECEIVE: &str = "sqs:ReceiveMessage";
const DELETE: &str = "sqs:DeleteMessage";
const HIDE: &str = "sqs:ChangeMessageVisibility";
const LOOK: &str = "sqs:GetQueueAttributes";
const FIND: &str = "sqs:GetQueueUrl";

/// Finds the queue of that name.
pub(super) async fn find(client: Client, target: Target) -> Result<AwsQueue> {
    let found = target.ask(FIND, client.get_queue_url().queue_name(&target.name).send()).await?;
    let lacking = |what: &str| CloudError::new(ErrorKind::Unavailable, target.operation(FIND), what);
    let url = found.queue_url.ok_or_else(|| lacking("the answer has no URL"))?;
    let request = client.get_queue_attributes().queue_url(&url).attribute_names(Attribute::VisibilityTimeout);
    let found = target.ask(LOOK, request.send()).await?;
    let visibility = found.attributes().and_then(|all| all.get(&Attribute::VisibilityTimeout));
    let visibility = visibility.and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let visibility = visibility.ok_or_else(|| lacking("the answer has no visibility timeout"))?;
    Ok(AwsQueue { client, target, url, visibility })
}

#[async_trait]
impl Queue for AwsQueue {
    fn name(&self) -> &str {
        &self.target.name
    }

    async fn send(&self, messages: &[Outgoing]) -> Result<Vec<Result<()>>> {
        let operation = self.target.operation(SEND);
        limits::check_send(&operation, messages)?;
        let mut results: Vec<Result<()>> =
            messages.iter().map(|message| limits::check_message(&operation, message)).collect();
        let mut entries = Vec::new();
        for (at, message) in messages.iter().enumerate().filter(|(at, _)| results[*at].is_ok()) {
            // SQS counts whole seconds: a delay is never cut short.
            let delay = i32::try_from(message.delay.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
            let entry = SendMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .message_body(&message.body)
                .set_delay_seconds((delay > 0).then_some(delay));
            entries.push(entry.build().map_err(|error| self.unbuilt(SEND, error))?);
        }
        if entries.is_empty() {
            return Ok(results);
        }
        let request = self.client.send_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let answer = self.target.ask(SEND, request.send()).await?;
        self.note_failures(SEND, answer.failed, &mut results);
        Ok(results)
    }

    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>> {
        limits::check_receive(&self.target.operation(RECEIVE), max, wait)?;
        let wait = i32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let request = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(max).unwrap_or(i32::MAX))
            .wait_time_seconds(wait)
            .message_system_attribute_names(MessageAttribute::ApproximateReceiveCount)
            .message_system_attribute_names(MessageAttribute::SentTimestamp);
        let answer = self.target.ask(RECEIVE, request.send()).await?;
        answer.messages.unwrap_or_default().into_iter().map(|message| self.message(message)).collect()
    }

    async fn delete(&self, receipts: &[Receipt]) -> Result<Vec<Result<()>>> {
        limits::check_batch(&self.target.operation(DELETE), receipts.len())?;
        let mut results: Vec<Result<()>> = receipts.iter().map(|_| Ok(())).collect();
        let mut entries = Vec::new();
        for (at, receipt) in receipts.iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder().id(at.to_string()).receipt_handle(&receipt.0);
            entries.push(entry.build().map_err(|error| self.unbuilt(DELETE, error))?);
        }
        if entries.is_empty() {
            return Ok(results);
        }
        let request = self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let answer = self.target.ask(DELETE, request.send()).await?;
        // A message that is gone, or that somebody else has by now, is not ours to delete: nothing is left to do.
        let failed = answer.failed.into_iter().filter(|failure| !is_outdated(&failure.code)).collect();
        self.note_failures(DELETE, failed, &mut results);
        Ok(results)
    }

    async fn set_visibility(&self, receipt: &Receipt, timeout: Duration) -> Result<()> {
        let operation = self.target.operation(HIDE);
        limits::check_visibility(&operation, timeout)?;
        let secs = i32::try_from(timeout.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
            .id("0")
            .receipt_handle(&receipt.0)
            .visibility_timeout(secs)
            .build()
            .map_err(|error| self.unbuilt(HIDE, error))?;
        // The batch form, because it tells an outdated receipt by a code of its own entry on every server.
        let request = self.client.change_message_visibility_batch().queue_url(&self.url).entries(entry);
        let answer = self.target.ask(HIDE, request.send()).await?;
        match answer.failed.into_iter().next() {
            None => Ok(()),
            Some(failure) if is_outdated(&failure.code) => {
                let message = "the message is gone, was given back or was received again since";
                Err(CloudError::new(ErrorKind::NotFound, operation, message))
            }
            Some(failure) => Err(self.failure(HIDE, failure)),
        }
    }

    fn visibility_timeout(&self) -> Duration {
        self.visibility
    }

    async fn depth(&self) -> Result<QueueDepth> {
        let names = [
            Attribute::ApproximateNumberOfMessages,
            Attribute::ApproximateNumberOfMessagesNotVisible,
            Attribute::ApproximateNumberOfMessagesDelayed,
        ];
        let request = self.client.get_queue_attributes().queue_url(&self.url).set_attribute_names(Some(names.to_vec()));
        let answer = self.target.ask(LOOK, request.send()).await?;
        let number = |name: &Attribute| {
            let text = answer.attributes().and_then(|all| all.get(name));
            text.and_then(|text| text.parse().ok()).ok_or_else(|| {
                let message = format!("the answer has no {}", name.as_str());
                CloudError::new(ErrorKind::Unavailable, self.target.operation(LOOK), message)
            })
        };
        let [visible, in_flight, delayed] = &names;
        Ok(QueueDepth { visible: number(visible)?, in_flight: number(in_flight)?, delayed: number(delayed)? })
    }
}

/// Codes of a receipt whose message was deleted, given back, or received again.
fn is_outdated(code: &str) -> bool {
    let code = code.rsplit(['#', '.']).next().unwrap_or_default();
    matches!(code, "ReceiptHandleIsInvalid" | "InvalidParameterValue" | "MessageNotInflight")
}

impl AwsQueue {
    fn message(&self, message: SdkMessage) -> Result<Message> {
        let number = |name: MessageAttribute| {
            let text = message.attributes.as_ref().and_then(|all| all.get(&name));
            text.and_then(|text| text.parse::<i64>().ok())
        };
        let count = number(MessageAttribute::ApproximateReceiveCount).and_then(|count| u32::try_from(count).ok());
        let sent_ms = number(MessageAttribute::SentTimestamp);
        match (message.message_id, message.body, message.receipt_handle, count, sent_ms) {
            (Some(id), Some(body), Some(receipt), Some(receive_count), Some(sent_ms)) => {
                Ok(Message { id, body, receipt: Receipt(receipt), receive_count, sent_ms })
            }
            _ => {
                let message = "a message lacks its id, body, receipt, receive count or time";
                Err(CloudError::new(ErrorKind::Unavailable, self.target.operation(RECEIVE), message))
            }
        }
    }

    /// Puts the failures of a batch's entries, whose ids are their places, where they belong.
    fn note_failures(&self, action: &str, failed: Vec<BatchResultErrorEntry>, results: &mut [Result<()>]) {
        for failure in failed {
            let at = failure.id.parse::<usize>().ok();
            if let Some(result) = at.and_then(|at| results.get_mut(at)) {
                *result = Err(self.failure(action, failure));
            }
        }
    }

    fn failure(&self, action: &str, failure: BatchResultErrorEntry) -> CloudError {
        let kind = kind_of_code(&failure.code, if failure.sender_fault { 400 } else { 500 });
        let message = format!("{}: {}", failure.code, failure.message.unwrap_or_default());
        CloudError::new(kind, self.target.operation(action), message)
    }

    fn unbuilt(&self, action: &str, error: impl std::error::Error + Send + Sync + 'static) -> CloudError {
        CloudError::new(ErrorKind::Invalid, self.target.operation(action), error.to_string()).with_source(error)
    }
}
