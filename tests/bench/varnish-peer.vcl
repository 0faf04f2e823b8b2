vcl 4.1;

backend origin {
  .host = "127.0.0.1";
  .port = "@origin@";
}

backend sink {
  .host = "127.0.0.1";
  .port = "@sink@";
}

sub vcl_recv {
  set req.backend_hint = origin;
  if (req.url ~ "upload") {
    set req.backend_hint = sink;
    return (pass);
  }
  if (req.url ~ "pass") {
    return (pass);
  }
}
