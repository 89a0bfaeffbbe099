//! Model registry, key store, job queue, worker and gRPC services.
