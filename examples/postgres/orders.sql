CREATE SCHEMA shop;
CREATE TABLE shop.customers (id bigint PRIMARY KEY, name text NOT NULL, city text);
CREATE TABLE shop.orders (
  id uuid PRIMARY KEY,
  customer bigint NOT NULL,
  name text,
  total numeric(10, 2) CHECK (total >= 0),
  at timestamptz NOT NULL
);
INSERT INTO shop.customers VALUES (1, 'Ada', 'London'), (2, 'Grace', 'New York');
