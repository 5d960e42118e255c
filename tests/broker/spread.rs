//! The exchanges that spread a source: what a broker without the plugin says.

use crate::node::Node;
use setgate::broker::DeclareError;
use setgate::broker::spread::{HashOn, ensure_hash_exchange};

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_the_plugin_is_named_with_the_mend() {
    let node = Node::start();
    let connection = node.connect().await;
    let on = HashOn::Header("uid".to_owned());
    let refused = ensure_hash_exchange(&connection, "setgate.t.lane.orders.a", &on).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, DeclareError::NoPlugin { .. }), "{error:?}");
    assert!(
        error.to_string().contains("rabbitmq-plugins enable"),
        "{error}"
    );
}
