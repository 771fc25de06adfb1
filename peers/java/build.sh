#!/bin/sh
# Makes target/peers/java/artefact: our jar, those it needs, and a Java runtime of the modules they use. Needs Maven and a JDK, 17 or later.
set -eu
cd "${0%/*}"
out=$PWD/../../target/peers/java
mvn --batch-mode --quiet --define out="$out/maven" package
artefact=$out/artefact.new
rm -rf "$artefact"
mkdir -p "$artefact/lib"
cp "$out/maven/java.jar" "$out"/maven/lib/*.jar "$artefact/lib/"
# java.security.* and java.xml: kafka-clients and the driver name them in classes that are loaded. jdk.unsupported: Unsafe.
jlink --add-modules java.base,java.logging,java.management,java.naming,java.security.jgss,java.security.sasl,java.sql,java.xml,jdk.httpserver,jdk.unsupported \
  --strip-java-debug-attributes --no-header-files --no-man-pages --output "$artefact/jre"
# The archive of the runtime's classes that a JDK has, and jlink leaves out.
"$artefact/jre/bin/java" -XX:+UseSerialGC -Xshare:dump >"$out/cds.log"
rm -rf "$out/artefact"
mv "$artefact" "$out/artefact"
