db.customers.insertMany([
  { _id: ObjectId("65f000000000000000000001"), name: "Ada", address: { city: "London" }, tags: ["new"] },
  { _id: ObjectId("65f000000000000000000002"), name: "Grace" },
]);
