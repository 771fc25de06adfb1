#!/bin/sh
# Creates target/peers/java/artefact: the jar, its dependencies, and a Java runtime with the modules
# that they use. It needs Maven and a JDK, version 17 or later.
set -eu
cd "${0%/*}"
out=$PWD/../../target/peers/java
mvn --batch-mode --quiet --define out="$out/maven" package
artefact=$out/artefact.new
rm -rf "$artefact"
mkdir -p "$artefact/lib"
cp "$out/maven/java.jar" "$out"/maven/lib/*.jar "$artefact/lib/"
# Loaded classes of kafka-clients and of the driver refer to java.security.* and java.xml.
# jdk.unsupported has the class Unsafe.
modules=java.base,java.logging,java.management,java.naming,java.security.jgss,java.security.sasl
modules=$modules,java.sql,java.xml,jdk.httpserver,jdk.unsupported
jlink --add-modules "$modules" \
  --strip-java-debug-attributes --no-header-files --no-man-pages --output "$artefact/jre"
# The class data archive of the runtime, which jlink leaves out.
"$artefact/jre/bin/java" -XX:+UseSerialGC -Xshare:dump >"$out/cds.log"
rm -rf "$out/artefact"
mv "$artefact" "$out/artefact"
