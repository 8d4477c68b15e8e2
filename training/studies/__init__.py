"""Research beside the product: what the networks are compared with. Neither training nor export needs it."""
