mod claim_key_packages;
mod get_key_packages;
mod publish_key_package;
