//! The methods, one row each in `methods!`, by area.
//!
//! A method is two files that lie together: `<area>/<method>.rs` with its input, its output and the way from one to the other, and
//! `<area>/<method>.json`, its lexicon document. Limits are constants at the head of the file. Reads go to the store; a change becomes
//! a command.

mod blob;
mod departure;
mod fields;
mod group;
mod key_package;
mod submission;
mod visible;

use crate::xrpc::Route;

/// Declares the modules of the methods, and [`ROUTES`].
///
/// `cargo fmt` does not see modules that a macro declares: `rustfmt src/api/*/*.rs` formats them.
macro_rules! methods {
    ($($area:ident { $($module:ident::$method:ident $(as $kind:ident)?,)+ })+) => {
        $(mod $area {
            $(pub mod $module;)+
        })+

        /// Every method of this server.
        pub const ROUTES: &[Route] = &[$($(methods!(@route $area::$module::$method $($kind)?),)+)+];
    };
    (@route $area:ident::$module:ident::$method:ident) => { Route::of::<$area::$module::$method>() };
    (@route $area:ident::$module:ident::$method:ident upload) => { Route::upload::<$area::$module::$method>() };
    (@route $area:ident::$module:ident::$method:ident subscription) => {
        Route::subscription::<$area::$module::$method>()
    };
}

methods! {
    convos {
        create_convo::CreateConvo,
        add_members::AddMembers,
        leave_convo::LeaveConvo,
        remove_member::RemoveMember,
        submit_commit::SubmitCommit,
        process_external_commit::ProcessExternalCommit,
        reset_convo::ResetConvo,
        get_convos::GetConvos,
    }
    epochs {
        get_epoch::GetEpoch,
        get_commits::GetCommits,
        report_commit::ReportCommit,
    }
    messages {
        send_message::SendMessage,
        submit_proposal::SubmitProposal,
        get_messages::GetMessages,
        update_cursor::UpdateCursor,
        update_read::UpdateRead,
    }
    blobs {
        upload_blob::UploadBlob as upload,
        create_blob_upload::CreateBlobUpload,
        upload_blob_part::UploadBlobPart as upload,
        complete_blob_upload::CompleteBlobUpload,
        get_blob_upload::GetBlobUpload,
        abort_blob_upload::AbortBlobUpload,
        get_blob::GetBlob,
        get_quota::GetQuota,
    }
    events {
        stream_convo_events::StreamConvoEvents,
        get_subscription_ticket::GetSubscriptionTicket,
        subscribe_convo_events::SubscribeConvoEvents as subscription,
        send_typing_indicator::SendTypingIndicator,
    }
    key_packages {
        publish_key_package::PublishKeyPackage,
        publish_key_packages::PublishKeyPackages,
        claim_key_packages::ClaimKeyPackages,
        get_key_packages::GetKeyPackages,
        get_key_package_stats::GetKeyPackageStats,
        get_key_package_status::GetKeyPackageStatus,
        sync_key_packages::SyncKeyPackages,
    }
    devices {
        register_device::RegisterDevice,
        list_devices::ListDevices,
        delete_device::DeleteDevice,
        get_pending_device_additions::GetPendingDeviceAdditions,
        claim_pending_device_addition::ClaimPendingDeviceAddition,
        complete_pending_device_addition::CompletePendingDeviceAddition,
        get_expected_conversations::GetExpectedConversations,
        validate_device_state::ValidateDeviceState,
    }
    welcomes {
        get_welcome::GetWelcome,
        confirm_welcome::ConfirmWelcome,
    }
    readditions {
        readdition::Readdition,
        rejoin::Rejoin,
    }
    group_infos {
        get_group_info::GetGroupInfo,
        update_group_info::UpdateGroupInfo,
        group_info_refresh::GroupInfoRefresh,
    }
    mailboxes {
        get_mailbox::GetMailbox,
        set_mailbox::SetMailbox,
    }
}
