mod claim_key_packages;
mod get_key_packages;
mod handmade;
mod publish_key_package;
mod publish_key_packages;
