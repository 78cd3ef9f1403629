pub mod claim_key_packages;
pub mod get_key_packages;
pub mod publish_key_package;
