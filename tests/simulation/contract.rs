//! The cloud that simulations run on keeps the seam's contract itself.

use penstock_engine::{
    cloud::{Cloud, conformance, resources::Naming},
    time::Clock,
};
use penstock_tests::memory::MemoryCloud;

#[tokio::test]
async fn the_cloud_in_memory_keeps_the_contract_of_queues_buses_and_streams() {
    let naming = Naming { pipeline: "p".to_owned(), env: "e".to_owned(), account: "0".to_owned() };
    let cloud = MemoryCloud::new(&naming, &conformance::resources(), &Clock::system(), 2);
    let items = cloud.table(conformance::ITEMS).await.unwrap();
    let stream = cloud.change_stream(conformance::ITEMS).await.unwrap();
    conformance::change_stream::run_all(&*items, &*stream, None).await;
    let (work, dead) = (cloud.queue(conformance::WORK).await.unwrap(), cloud.queue(conformance::DEAD).await.unwrap());
    conformance::queue::run_all(&*work, &*dead).await;
    let (bus, events) =
        (cloud.event_bus(conformance::BUS).await.unwrap(), cloud.queue(conformance::EVENTS).await.unwrap());
    conformance::event_bus::run_all(&*bus, &*events).await;
}
