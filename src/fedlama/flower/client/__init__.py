"""A node's side: training, the durable state, and the reply to a request."""
