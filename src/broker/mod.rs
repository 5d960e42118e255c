//! The shell around RabbitMQ: connections, consumers, publishers, declarations.
