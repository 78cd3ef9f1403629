//! The methods: one file each, by area. A file has the method's input, its output and the way from one to the other; policy
//! stands as constants at its head. Reads go to the store, changes become a command for the serializer.

mod convos;
mod epochs;
mod events;
mod fields;
mod key_packages;
mod mailboxes;
mod messages;
mod welcomes;

use crate::xrpc::Route;

/// Every method of this server.
pub const ROUTES: &[Route] = &[
    Route::of::<convos::create_convo::CreateConvo>(),
    Route::of::<convos::add_members::AddMembers>(),
    Route::of::<convos::leave_convo::LeaveConvo>(),
    Route::of::<convos::get_convos::GetConvos>(),
    Route::of::<epochs::get_epoch::GetEpoch>(),
    Route::of::<epochs::get_commits::GetCommits>(),
    Route::of::<messages::send_message::SendMessage>(),
    Route::of::<messages::get_messages::GetMessages>(),
    Route::of::<messages::update_cursor::UpdateCursor>(),
    Route::of::<messages::update_read::UpdateRead>(),
    Route::of::<events::stream_convo_events::StreamConvoEvents>(),
    Route::of::<events::get_subscription_ticket::GetSubscriptionTicket>(),
    Route::subscription::<events::subscribe_convo_events::SubscribeConvoEvents>(),
    Route::of::<events::send_typing_indicator::SendTypingIndicator>(),
    Route::of::<key_packages::publish_key_package::PublishKeyPackage>(),
    Route::of::<key_packages::claim_key_packages::ClaimKeyPackages>(),
    Route::of::<key_packages::get_key_packages::GetKeyPackages>(),
    Route::of::<welcomes::get_welcome::GetWelcome>(),
    Route::of::<welcomes::confirm_welcome::ConfirmWelcome>(),
    Route::of::<mailboxes::get_mailbox::GetMailbox>(),
    Route::of::<mailboxes::set_mailbox::SetMailbox>(),
];
