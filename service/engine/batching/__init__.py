"""Dynamic batching: requests of many callers become batches."""
