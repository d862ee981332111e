//! The HTTP engines against the words of the standards, with programs that others wrote: a real pair of sidecars (and the
//! gateway) between a client and an app, both of which break rules where that is the case in question.
//!
//! A case is named by its section; it says what was expected and what came. What deviates and stays is listed beside the
//! cases with its reason, and is checked to deviate as it says.

mod backends;
mod floods;
mod grpc;
mod grpc_service;
mod http1;
mod http2;
mod paths;
mod raw_app;
mod scene;
mod smuggling;
mod websocket;
