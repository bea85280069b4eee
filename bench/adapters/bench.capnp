@0x9a3f6b1c27d8e405;
# The functions of `bench.adapter.Connection`; the fields are those of `bench.payload.FIELDS`.

struct Row {
  id @0 :Int64;
  account @1 :Int64;
  created @2 :Int64;
  updated @3 :Int64;
  version @4 :Int64;
  quantity @5 :Int64;
  name @6 :Text;
  email @7 :Text;
  street @8 :Text;
  city @9 :Text;
  country @10 :Text;
  phone @11 :Text;
  note @12 :Text;
  price @13 :Float64;
  discount @14 :Float64;
  latitude @15 :Float64;
  longitude @16 :Float64;
  active @17 :Bool;
  verified @18 :Bool;
  archived @19 :Bool;
}

interface Bench {
  add @0 (a :Int64, b :Int64) -> (value :Int64);
  echo @1 (data :Data) -> (data :Data);
  records @2 (rows :List(Row)) -> (rows :List(Row));
}
