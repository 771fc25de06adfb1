// A client of the bank from npm: kafkajs, with its client of the schema registry. Opens an account,
// deposits money, and prints the records sent and read as one JSON object. The addresses of the
// brokers and of the registry are in environment variables.

import { SchemaRegistry, SchemaType } from '@kafkajs/confluent-schema-registry'
import { randomUUID } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import { Kafka, logLevel } from 'kafkajs'

const { KAFKA_BROKERS, SCHEMA_REGISTRY_URL } = process.env
const OUTCOMES = ['account_creation_confirmed', 'money_transfer_confirmed', 'balance_changed']
const TIMEOUT_MS = 30_000

const registry = new SchemaRegistry({ host: SCHEMA_REGISTRY_URL })
const kafka = new Kafka({ brokers: KAFKA_BROKERS.split(','), logLevel: logLevel.ERROR })
const producer = kafka.producer()
const consumer = kafka.consumer({ groupId: `npm-${randomUUID()}` })
const keys = new Set()
const sent = []
const read = []

/** Sends a command; returns its key. */
async function send(topic, fields) {
  const subject = `${topic}-value`
  const latest = await (await fetch(`${SCHEMA_REGISTRY_URL}/subjects/${subject}/versions/latest`)).json()
  // A program has the schema as an object, from a file or from the registry.
  const schema = { type: SchemaType.AVRO, schema: JSON.stringify(JSON.parse(latest.schema)) }
  const found = await registry.getRegistryIdBySchema(subject, schema)
  const registered = await registry.register(schema, { subject })
  const key = randomUUID()
  keys.add(key)
  const id = Buffer.from(key.replaceAll('-', ''), 'hex')
  const value = await registry.encode(found, { id, ...fields })
  const [{ partition }] = await producer.send({ topic, messages: [{ key, value }] })
  sent.push({ topic, key, partition, ids: [latest.id, found, registered.id] })
  return key
}

/** The value of the outcome with this key. */
async function outcome(topic, key) {
  const deadline = Date.now() + TIMEOUT_MS
  for (;;) {
    const record = read.find((it) => it.topic === topic && it.key === key)
    if (record) return record.value
    if (Date.now() > deadline) throw new Error(`no record ${key} on ${topic}`)
    await setTimeout(10)
  }
}

await producer.connect()
await consumer.connect()
await consumer.subscribe({ topics: OUTCOMES, fromBeginning: true })
await consumer.run({
  eachMessage: async ({ topic, partition, message }) => {
    const key = message.key?.toString()
    if (!keys.has(key)) return
    const value = { ...(await registry.decode(message.value)) }
    for (const [name, field] of Object.entries(value)) {
      if (Buffer.isBuffer(field)) value[name] = field.toString('hex')
    }
    read.push({ topic, partition, key, value })
  },
})
const creation = await send('confirm_account_creation', { a_type: 'MANUAL' })
const { iban } = await outcome('account_creation_confirmed', creation)
keys.add(iban)
const fields = { token: 'cash', from: 'cash', to: iban, description: 'émigré €' }
const deposit = await send('confirm_money_transfer', { amount: 1234, ...fields })
await outcome('money_transfer_confirmed', deposit)
await outcome('balance_changed', iban)
await consumer.disconnect()
await producer.disconnect()
console.log(JSON.stringify({ sent, read }))
