//! The commands, one file for each noun.

pub(crate) mod async_request;
pub(crate) mod audit;
pub(crate) mod deployment;
pub(crate) mod environment;
pub(crate) mod events;
pub(crate) mod init;
pub(crate) mod key;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod model;
pub(crate) mod predict;
pub(crate) mod promotion;
pub(crate) mod push;
pub(crate) mod secret;
pub(crate) mod status;
pub(crate) mod usage;
pub(crate) mod watch;
