"""What has to hold before a package is published."""
