"""Graph to Graph: each pass a small function. They derive what is planned; the authored graph stays as it is."""
