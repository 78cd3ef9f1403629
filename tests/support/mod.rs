<<<<<<< HEAD
<<<<<<< HEAD
//! What the integration tests share. Each test file is a crate of its own and uses a part of it.
#![allow(dead_code, reason = "no test crate uses all of the support")]

pub mod lexicon;
=======
//! What the integration tests share. Each test binary declares `mod support;` and uses the part it needs.
=======
//! What the integration tests share. Each test file is a crate of its own and uses a part of it.
>>>>>>> 0156f88 (tests: add the persona, a member of a conversation as a whole)

pub mod client;
>>>>>>> abe4f86 (tests: add an MLS client with real keys)
