//! The SQLSTATE codes this node sends, under PostgreSQL's names.
//!
//! Tools act on some of them: `57P03` sends libpq to the next host, `42710` and `42704` are what
//! `--if-not-exists` looks for. The room knows five-letter codes and nothing else.

/// A message that breaks the protocol.
pub const PROTOCOL_VIOLATION: &str = "08P01";
/// Known, and not done here.
pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
/// A number outside the range its parameter allows.
pub const NUMERIC_VALUE_OUT_OF_RANGE: &str = "22003";
/// Text that is not valid in the encoding it claims.
pub const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";
/// A parameter value that is not one of those allowed.
pub const INVALID_PARAMETER_VALUE: &str = "22023";
/// Who the client says it is cannot be.
pub const INVALID_AUTHORIZATION: &str = "28000";
/// Wrong password, or no such user: the two are not told apart.
pub const INVALID_PASSWORD: &str = "28P01";
/// No such database.
pub const INVALID_CATALOG_NAME: &str = "3D000";
/// The role may not do this.
pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// A command that does not parse.
pub const SYNTAX_ERROR: &str = "42601";
/// A name with characters it may not have.
pub const INVALID_NAME: &str = "42602";
/// No such slot, parameter or option.
pub const UNDEFINED_OBJECT: &str = "42704";
/// A slot of that name exists.
pub const DUPLICATE_OBJECT: &str = "42710";
/// Too many connections.
pub const TOO_MANY_CONNECTIONS: &str = "53300";
/// A configured limit is reached, as the number of slots.
pub const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";
/// The node is not in a state in which this can be done.
pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
/// The slot is in use by another session.
pub const OBJECT_IN_USE: &str = "55006";
/// Cancelled on request.
pub const QUERY_CANCELED: &str = "57014";
/// A position that was held cannot be read any more.
pub const SNAPSHOT_TOO_OLD: &str = "72000";
/// The node is stopping.
pub const ADMIN_SHUTDOWN: &str = "57P01";
/// The node cannot serve now; libpq tries its next host.
pub const CANNOT_CONNECT_NOW: &str = "57P03";
/// Log or a history file that is not there, or no longer.
pub const UNDEFINED_FILE: &str = "58P01";
/// Everything PostgreSQL has no better code for, refused start positions among them.
pub const INTERNAL_ERROR: &str = "XX000";
