//! A cluster's objects as resources of the registry.
