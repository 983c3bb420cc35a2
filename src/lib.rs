//! An embedded, replicated store.
